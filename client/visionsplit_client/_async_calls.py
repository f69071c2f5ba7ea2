"""Calls on an event loop: started, repeated while that is allowed, and cancelled. The counterpart of `_calls`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, Protocol, Self, TypeVar

import grpc
import grpc.aio
from visionsplit.errors import CancelledError
from visionsplit.wire.upload_status import UploadStatus, is_failed_write

from visionsplit_client._calls import Collector
from visionsplit_client._retry import Attempts
from visionsplit_client._tracing import CallTrace

MessageT = TypeVar("MessageT")
MessageT_co = TypeVar("MessageT_co", covariant=True)
EventT = TypeVar("EventT")
LastT = TypeVar("LastT")


class AsyncCall(Protocol[MessageT_co]):
    """A running gRPC call that streams its answer."""

    def __aiter__(self) -> AsyncIterator[MessageT_co]: ...

    def cancel(self) -> bool: ...


class AsyncUpload(Generic[MessageT]):
    """A call that also streams its request, with the server's status where grpc.aio would hide it."""

    def __init__(self, call: "grpc.aio.StreamStreamCall[Any, MessageT]") -> None:
        self._call = call
        self._status = UploadStatus(call)

    async def __aiter__(self) -> AsyncIterator[MessageT]:
        try:
            async for message in self._call:
                yield message
        except grpc.RpcError as error:
            if not is_failed_write(error):
                raise
            status = await self._status.get()
            raise status or error from None

    def cancel(self) -> bool:
        return self._call.cancel()


class AsyncEventStream(Generic[EventT, LastT]):
    """The events of one call, as they come. Iterate it once, best inside `async with`, so that leaving early cancels.

    What arrives before a call is past repeating (images' summaries, an encoding's header) is given out together with
    the first event after it, so an event is never seen twice.
    """

    def __init__(
        self,
        attempts: Attempts,
        prepare: Callable[[], Awaitable[Callable[[str, float | None], AsyncCall[MessageT]]]],
        collector: Collector[MessageT, EventT, LastT],
        trace: CallTrace,
    ) -> None:
        self.request_id = collector.request_id
        self._trace = trace
        self._call: AsyncCall[object] | None = None
        self._closed = False
        self._last: LastT | None = None
        self._events = self._run(attempts, prepare, collector)

    def __aiter__(self) -> AsyncIterator[EventT]:
        return self

    async def __anext__(self) -> EventT:
        return await anext(self._events)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def result(self) -> LastT:
        """The last event; reads what has not been read yet.

        Raises:
            CancelledError: the stream was closed before its end.
        """
        async for _ in self:
            pass
        if self._last is None:
            raise CancelledError("the stream was closed before its end")
        return self._last

    async def aclose(self) -> None:
        """Cancel the call if it still runs; iteration then ends. May be done any number of times."""
        self._closed = True
        if self._call is not None:
            self._call.cancel()

    async def _run(
        self,
        attempts: Attempts,
        prepare: Callable[[], Awaitable[Callable[[str, float | None], AsyncCall[MessageT]]]],
        collector: Collector[MessageT, EventT, LastT],
    ) -> AsyncIterator[EventT]:
        try:
            start = await prepare()
            collector.begin()
            with self._trace.running():
                async for message in self._messages(attempts, start, collector.commits):
                    yield collector.take(message)
                if not self._closed:
                    self._last = collector.end()
        finally:
            await self.aclose()

    async def _messages(
        self,
        attempts: Attempts,
        start: Callable[[str, float | None], AsyncCall[MessageT]],
        commits: Callable[[MessageT], bool],
    ) -> AsyncIterator[MessageT]:
        held: list[MessageT] = []  # what may still be thrown away with its try
        committed = False
        while not self._closed:
            address, timeout = attempts.begin()
            call = start(address, timeout)
            self._call = call
            try:
                async for message in call:
                    held.append(message)
                    if committed or commits(message):
                        if not committed:
                            attempts.succeeded()
                        committed = True
                        for one in held:
                            yield one
                        held.clear()
                attempts.succeeded()
                for one in held:
                    yield one
                return
            except grpc.RpcError as error:
                if self._closed:
                    return
                held.clear()
                delay = attempts.failed(error, repeatable=not committed)
            except asyncio.CancelledError:
                # grpc.aio reports a call cancelled by `aclose` like a cancelled task.
                if self._closed:
                    return
                raise
            await asyncio.sleep(delay)


async def unary(attempts: Attempts, start: Callable[[str, float | None], Awaitable[MessageT]]) -> MessageT:
    """One question, one answer."""
    while True:
        address, timeout = attempts.begin()
        try:
            answer = await start(address, timeout)
        except grpc.RpcError as error:
            delay = attempts.failed(error, repeatable=True)
        else:
            attempts.succeeded()
            return answer
        await asyncio.sleep(delay)
