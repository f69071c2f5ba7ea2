"""A request's messages to the LLM service, as they become ready, and a second time if the first receiver is lost."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TypeAlias

from visionsplit.v1 import vision_tokens_pb2

from encoder_service.pipeline.events import ImageDone

Message: TypeAlias = vision_tokens_pb2.ImageTokensHeader | vision_tokens_pb2.TokenChunk
Part: TypeAlias = Message | ImageDone


class Upload:
    """Goes through parts once, however often they are sent. One sender at a time.

    Tokens leave while later tiles are encoded, so a receiver may be lost with any number of them sent. They are kept
    until the answer begins, up to a bound: a larger upload is not repeated.
    """

    def __init__(
        self,
        parts: AsyncGenerator[Part, None],
        report: Callable[[ImageDone], None],
        *,
        keep_bytes: int,
    ) -> None:
        """
        Args:
            parts: messages, and after each image's last one its `ImageDone`.
            report: told of every `ImageDone`, once.
            keep_bytes: most bytes of messages to keep; 0 keeps none.
        """
        self._parts = parts
        self._report = report
        self._room = keep_bytes
        self._kept: list[Message] = []
        self._pulling: asyncio.Future[Message | None] | None = None
        self.repeatable = keep_bytes > 0
        self.failed = False  # the parts did, and not their receiver

    async def close(self) -> None:
        """Give up what is being made ready."""
        if self._pulling is not None:
            self._pulling.cancel()
            await asyncio.gather(self._pulling, return_exceptions=True)
        self.forget()

    def forget(self) -> None:
        """It will not be repeated."""
        self._kept.clear()
        self.repeatable = False

    async def messages(self) -> AsyncGenerator[Message, None]:
        """All of them: those that were kept, then the rest. The second time only while it is `repeatable`."""
        sent = 0
        while True:
            message = self._kept[sent] if sent < len(self._kept) else await self._next()
            if message is None:
                return
            sent += 1
            yield message

    async def _next(self) -> Message | None:
        # A sender may be cancelled while it waits here; the parts must not be, or there is no second time.
        if self._pulling is None:
            self._pulling = asyncio.ensure_future(self._pull())
        await asyncio.wait({self._pulling})
        message = self._pulling.result()
        if message is not None:
            self._pulling = None
            self._keep(message)
        return message

    async def _pull(self) -> Message | None:
        try:
            async for part in self._parts:
                if not isinstance(part, ImageDone):
                    return part
                self._report(part)
        except BaseException:
            self.failed = True
            raise
        return None

    def _keep(self, message: Message) -> None:
        if not self.repeatable:
            return
        self._room -= message.ByteSize()
        if self._room < 0:
            self.forget()
        else:
            self._kept.append(message)
