"""Sends the messages of an answer to a caller that may read slowly, but not never."""

import asyncio
from typing import Any

import grpc.aio

from visionsplit.errors import DeadlineError

# A slow reader delays only its own call, but the call keeps its place and its tokens in memory. After so long without a
# single message read, the reader is taken to be gone or stuck. Applications that pause longer can read ahead.
UNREAD_SECONDS = 600.0


async def send(context: "grpc.aio.ServicerContext[Any, Any]", message: object) -> None:
    """Send the next message of an answer, waiting while gRPC's buffers are full of unread messages.

    Raises:
        DeadlineError: the caller has read nothing for ten minutes.
    """
    try:
        async with asyncio.timeout(UNREAD_SECONDS):
            await context.write(message)
    except TimeoutError:
        raise DeadlineError(f"no part of the answer was read for {UNREAD_SECONDS:g} seconds") from None
