"""A buffer between an engine and one call's reader."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any

from visionsplit.errors import VisionSplitError

from llm_service.job import TokenEvent

_log = logging.getLogger(__name__)


class TokenBuffer:
    """One request's tokens, until a finished event or an error. Belongs to one event loop.

    What has not been read is a single event, so an unread token costs a few bytes, and a reader that is behind has one
    event to pass on instead of many.
    """

    def __init__(self) -> None:
        self._first: TokenEvent | None = None  # of those that have not been read
        self._token_ids: list[int] = []  # of all of these
        self._finished = False
        self._error: VisionSplitError | None = None  # read after the tokens
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()

    def put(self, event: TokenEvent | VisionSplitError) -> None:
        if isinstance(event, VisionSplitError):
            self._error = self._error or event  # the first one says why
        else:
            self._first = self._first or event
            self._token_ids += event.token_ids
            self._finished = event.finished
        self._changed.set()
        if self._finished or self._error is not None:
            self._ended.set()

    async def get(self) -> TokenEvent:
        """Wait for tokens; all that have come since the last time, as one event.

        Raises:
            VisionSplitError: the request failed.
        """
        while self._first is None and self._error is None:
            self._changed.clear()
            await self._changed.wait()
        if self._first is not None:
            event = replace(self._first, token_ids=tuple(self._token_ids), finished=self._finished)
            self._first, self._token_ids = None, []
            return event
        assert self._error is not None
        raise self._error

    async def events(self, pause_seconds: float = 0.0) -> AsyncGenerator[TokenEvent, None]:
        """Yield the tokens until the request ends, in events that are at least `pause_seconds` apart. The first event
        and the last one never wait.

        Raises:
            VisionSplitError: the request failed.
        """
        while True:
            event = await self.get()
            yield event
            if event.finished:
                return
            if pause_seconds:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_seconds):
                        await self._ended.wait()


async def read_ahead(
    fill: Callable[[TokenBuffer], Coroutine[Any, Any, None]], pause_seconds: float = 0.0
) -> AsyncGenerator[TokenEvent, None]:
    """Yield a buffer's events while a task fills it at the engine's pace, so that a slow reader holds no place.

    Closing the generator cancels the task and waits for its end: only then has what it held been returned.

    Args:
        fill: puts events into the buffer, up to a finished one or an error.
        pause_seconds: see `TokenBuffer.events`.
    """
    buffer = TokenBuffer()
    filling = asyncio.create_task(fill(buffer))
    try:
        async for event in buffer.events(pause_seconds):
            yield event
    finally:
        filling.cancel()
        await asyncio.wait({filling})


def post(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Run a callback on an event loop, from any thread. If the loop has closed, its requests have no reader left."""
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        _log.debug("an event loop closed before its requests ended")
