"""The server's own status of an upload that it refused while the client was still sending."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio

from visionsplit.errors import InternalError

# grpc.aio puts this in place of the server's status when a write fails because the server has ended the call.
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
        """Wait until the call has a status, good or bad."""
        await asyncio.wait({self._status})

    async def get(self) -> grpc.aio.AioRpcError | None:
        """The server's status as an error, code OK included; None if none came in time: the connection was lost."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self.ended()
        except TimeoutError:
            return None
        return self._status.result()

    def _record(self, call: StreamingCall) -> None:
        """gRPC calls this once more, with a status of its own making, when a write fails."""
        code, details = _now(call.code()), _now(call.details())
        of_failed_write = code is grpc.StatusCode.INTERNAL and details == _FAILED_WRITE
        if not (of_failed_write or self._status.done()):
            trailing = _now(call.trailing_metadata())
            self._status.set_result(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details))


def is_failed_write(error: grpc.RpcError) -> bool:
    """Whether an error is grpc.aio's own, so that the server's status must be looked up."""
    return error.code() is grpc.StatusCode.INTERNAL and error.details() == _FAILED_WRITE


def _now(accessor: Coroutine[Any, Any, _T]) -> _T:
    """What an accessor of a finished call gives: declared a coroutine, it has nothing left to wait for."""
    try:
        accessor.send(None)
    except StopIteration as result:
        value: _T = result.value
        return value
    accessor.close()
    raise InternalError("a finished call has no status")
