"""Sends the messages of an answer while the call continues with other work."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from visionsplit.serving.async_helpers import finish_despite_cancellation

_T = TypeVar("_T")


class Outbox(Generic[_T]):
    """Writes messages in their order. Used by one task.

    A caller that does not read delays only tasks that wait for a message to be written. The call's upload continues, so
    that the services can work for other callers.
    """

    def __init__(self, write: Callable[[_T], Awaitable[None]]) -> None:
        """`write` sends one message, and waits while the caller does not read."""
        self._write = write
        self._waiting: deque[_T] = deque()
        self._writing: asyncio.Future[None] | None = None
        self._failure: BaseException | None = None  # of `write`; nothing is written after it
        self._scope = asyncio.timeout(None)
        self._closed = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """The length of a call. It ends early, as by cancellation, when a message cannot be written.

        Raises:
            BaseException: of `write`.
        """
        try:
            async with self._scope:
                yield
        except TimeoutError:
            if self._failure is None or not self._scope.expired():  # a time limit within the call
                raise
            raise self._failure from None
        finally:
            self._closed = True
            self._waiting.clear()
            if self._writing is not None:
                # gRPC gives a call whose first write was cancelled midway no status any more: its caller would wait in
                # vain.
                await finish_despite_cancellation(asyncio.wait({self._writing}))

    def put(self, message: _T) -> None:
        """Queue a message after those before it, without waiting for it to be written."""
        self._waiting.append(message)
        if self._failure is None and (self._writing is None or self._writing.done()):
            self._writing = asyncio.ensure_future(self._write_all())

    async def send(self, message: _T) -> None:
        """Wait until a message, and those before it, have been written.

        Raises:
            BaseException: of `write`.
        """
        if self._writing is not None:
            await asyncio.wait({self._writing})
        if self._failure is not None:
            raise self._failure
        await self._write(message)

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                await self._write(self._waiting.popleft())
        except BaseException as error:
            self._failure = error
            if not self._closed:  # otherwise another error is ending the call already
                self._scope.reschedule(asyncio.get_running_loop().time())
