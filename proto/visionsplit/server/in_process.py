"""A service's methods without a network: what calls them in this process is received and checked as on a server."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import cast

import grpc
import grpc.aio

from visionsplit.serving.interceptors import Handler, behavior_of

Metadata = Iterable[tuple[str, str | bytes]]


class InProcessContext:
    """What a method sees of its call: the part of `grpc.aio.ServicerContext` that the services use."""

    def __init__(
        self,
        requests: AsyncIterator[bytes],
        metadata: Metadata | None,
        timeout: float | None,
        write: Callable[[object], None],
    ) -> None:
        """
        Args:
            requests: the messages that the method reads.
            metadata: of the request.
            timeout: seconds that the call may take; None sets no limit.
            write: takes each message of the answer; must not block.
        """
        self._requests = requests
        self._metadata = tuple(metadata or ())
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._write = write
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailing: tuple[tuple[str, str | bytes], ...] = ()

    def invocation_metadata(self) -> Metadata:
        return self._metadata

    def peer(self) -> str:
        return "unix:in-process"

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def done(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    async def read(self) -> object:
        """The next message of the request; `grpc.aio.EOF` at its end."""
        return await anext(self._requests, grpc.aio.EOF)

    async def write(self, message: object) -> None:
        self._write(message)

    def code(self) -> grpc.StatusCode | None:
        return self._code

    def trailing_metadata(self) -> Metadata:
        return self._trailing

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code

    def set_details(self, details: str) -> None:
        self._details = details

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        self._trailing = tuple(metadata)

    @property
    def status(self) -> grpc.aio.AioRpcError:
        """The call's status, OK included."""
        trailing = grpc.aio.Metadata(*self._trailing)
        return grpc.aio.AioRpcError(self._code or grpc.StatusCode.OK, grpc.aio.Metadata(), trailing, self._details)


class InProcessMethods:
    """The methods of services by their paths. Servicers are added as to a gRPC server, before `intercept`."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Ignore them: `add_registered_method_handlers` is given the same ones."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        self._handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    async def intercept(self, interceptors: Sequence[grpc.aio.ServerInterceptor]) -> None:
        """Put interceptors around the methods, the outermost first. The innermost makes them take streams of bytes."""
        for path in self._handlers:
            for interceptor in reversed(interceptors):
                self._handlers[path] = await _intercepted(interceptor, path, self._handlers[path])

    async def run(self, path: str, context: InProcessContext) -> object:
        """Run a method to its end. Returns the answer of a method that has a single one.

        Raises:
            AioRpcError: the method ended with a status other than OK, or the time of the call was over.
        """
        answer: object = None
        _, behavior = behavior_of(self._handlers[path])
        try:
            async with asyncio.timeout(context.time_remaining()):
                answer = await behavior(None, context)  # which reads the requests from the context
        except TimeoutError:  # not the method's own, which an interceptor has made a status
            context.set_code(grpc.StatusCode.DEADLINE_EXCEEDED)
            context.set_details("the time of the call is over")
        if context.status.code() is not grpc.StatusCode.OK:
            raise context.status
        return answer


class _Details:
    """`grpc.HandlerCallDetails` of a method, whichever call of it."""

    invocation_metadata = ()

    def __init__(self, method: str) -> None:
        self.method = method


async def _intercepted(interceptor: grpc.aio.ServerInterceptor, path: str, handler: Handler) -> Handler:
    async def inner(_: grpc.HandlerCallDetails) -> Handler:
        return handler

    return await interceptor.intercept_service(inner, cast(grpc.HandlerCallDetails, _Details(path)))
