"""Recovers the server's status of an upload that it refused while the client was still sending."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio

from visionsplit.errors import InternalError

# The details that grpc.aio substitutes for the server's status when a write fails because the server ended the call.
_FAILED_WRITE = "Internal error from Core"
_PATIENCE_SECONDS = 2.0

StreamingCall: TypeAlias = "grpc.aio.StreamStreamCall[Any, Any]"
_T = TypeVar("_T")


class UploadStatus:
    """Remembers the status of a call with a streamed request, which grpc.aio replaces when a write fails."""

    def __init__(self, call: StreamingCall) -> None:
        self._status: asyncio.Future[grpc.aio.AioRpcError] = asyncio.get_running_loop().create_future()
        call.add_done_callback(self._record)

    async def ended(self) -> None:
        """Wait until the call has a status, successful or not."""
        await asyncio.wait({self._status})

    async def get(self) -> grpc.aio.AioRpcError | None:
        """The server's status as an error, even with code OK; None if none came in time: the connection was lost."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self.ended()
        except TimeoutError:
            return None
        return self._status.result()

    def _record(self, call: StreamingCall) -> None:
        """A done callback. gRPC calls it a second time, with a status made by grpc.aio, when a write fails."""
        code, details = _now(call.code()), _now(call.details())
        of_failed_write = code is grpc.StatusCode.INTERNAL and details == _FAILED_WRITE
        if not (of_failed_write or self._status.done()):
            trailing = _now(call.trailing_metadata())
            self._status.set_result(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details))


def is_failed_write(error: grpc.RpcError) -> bool:
    """Whether an error was made by grpc.aio, so that the server's status must be looked up."""
    return error.code() is grpc.StatusCode.INTERNAL and error.details() == _FAILED_WRITE


def _now(accessor: Coroutine[Any, Any, _T]) -> _T:
    """Get the result of a finished call's accessor, which is declared a coroutine but never waits."""
    try:
        accessor.send(None)
    except StopIteration as result:
        value: _T = result.value
        return value
    accessor.close()
    raise InternalError("a finished call has no status")
