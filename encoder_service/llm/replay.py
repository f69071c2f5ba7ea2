"""A request's messages to the LLM service, as they become ready, and a second time if the first receiver is lost."""

import asyncio
from collections.abc import AsyncGenerator
from typing import TypeAlias

from visionsplit.v1 import encoder_service_pb2, vision_tokens_pb2

Part: TypeAlias = vision_tokens_pb2.ImageTokensHeader | vision_tokens_pb2.TokenChunk | encoder_service_pb2.ImageSummary
"""What comes of a request's images: messages for the LLM service, and each image's summary, for the caller."""


class Upload:
    """Goes through parts once, however often they are sent. One sender at a time.

    Tokens leave while later tiles are encoded, so a receiver may be lost with any number of them sent. They are kept
    until the answer begins, up to a bound: a larger upload is not repeated.
    """

    def __init__(self, parts: AsyncGenerator[Part, None], *, keep_bytes: int) -> None:
        """
        Args:
            parts: of one request.
            keep_bytes: most bytes of messages to keep; 0 keeps none.
        """
        self._parts = parts
        self._room = keep_bytes
        self._kept: list[Part] = []
        self._pulling: asyncio.Future[Part | None] | None = None
        self.repeatable = keep_bytes > 0
        self.failed = False  # the parts did, and not their receiver

    async def close(self) -> None:
        """Cancel what is being prepared."""
        if self._pulling is not None:
            self._pulling.cancel()
            await asyncio.gather(self._pulling, return_exceptions=True)
        self.forget()

    def forget(self) -> None:
        """Drop what has been kept: the upload will not be repeated."""
        self._kept.clear()
        self.repeatable = False

    async def parts(self) -> AsyncGenerator[Part, None]:
        """All messages and summaries. The second time, only while the upload is `repeatable`: the messages that were
        kept, then the rest. Summaries come once, because the caller has no use for a second one.
        """
        sent = 0
        while True:
            while sent < len(self._kept):
                sent += 1
                yield self._kept[sent - 1]
            part = await self._next()
            if part is None:
                return
            if self._keep(part):
                sent += 1
            yield part

    async def _next(self) -> Part | None:
        # A sender may be cancelled while it waits here. The parts must not be cancelled with it, or they could not be
        # sent a second time.
        if self._pulling is None:
            self._pulling = asyncio.ensure_future(self._pull())
        await asyncio.wait({self._pulling})
        part = self._pulling.result()
        if part is not None:
            self._pulling = None
        return part

    async def _pull(self) -> Part | None:
        try:
            return await anext(self._parts, None)
        except BaseException:
            self.failed = True
            raise

    def _keep(self, part: Part) -> bool:
        """Keep a message for a second time. Returns whether it was kept."""
        if not self.repeatable or isinstance(part, encoder_service_pb2.ImageSummary):
            return False
        self._room -= part.ByteSize()
        if self._room < 0:
            self.forget()
            return False
        self._kept.append(part)
        return True
