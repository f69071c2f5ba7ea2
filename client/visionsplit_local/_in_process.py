"""Calls that stay in this process: what gRPC's channels offer, without sockets, serialisation or threads of gRPC's.

The services' methods run on one event loop. They get the very messages that the callers made, and their errors become
statuses by the same rule as on a server. So everything behind a method is what the services run.
"""

import asyncio
import logging
import queue
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeAlias, cast

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from visionsplit.serving.interceptors import ErrorInterceptor, behavior_of
from visionsplit.v1 import llm_service_pb2_grpc

from encoder_service.llm.channel import LlmConnection

_log = logging.getLogger(__name__)

Behavior = Callable[..., Awaitable[Any]]
Metadata = Iterable[tuple[str, str | bytes]]
_ServicerContext: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
MakeContext = Callable[[Callable[[object], None]], "Context"]

_END = object()  # of a queue of messages


class Context:
    """What a method sees of its call: the part of `grpc.aio.ServicerContext` that the services use."""

    def __init__(self, metadata: Metadata | None, timeout: float | None, write: Callable[[object], None]) -> None:
        """
        Args:
            metadata: of the request.
            timeout: seconds that the call may take.
            write: takes each message of the answer; must not block.
        """
        self._metadata = tuple(metadata or ())
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._write = write
        self._code = grpc.StatusCode.OK
        self._details = ""
        self._trailing: tuple[tuple[str, str | bytes], ...] = ()

    def invocation_metadata(self) -> Metadata:
        return self._metadata

    def peer(self) -> str:
        return "in-process"

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def done(self) -> bool:
        return False

    async def write(self, message: object) -> None:
        self._write(message)

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code

    def set_details(self, details: str) -> None:
        self._details = details

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        self._trailing = tuple(metadata)

    @property
    def status(self) -> grpc.aio.AioRpcError:
        """The call's status, OK included."""
        return grpc.aio.AioRpcError(self._code, grpc.aio.Metadata(), grpc.aio.Metadata(*self._trailing), self._details)


class Methods:
    """The methods of services by their paths. Servicers are added to it as to a gRPC server."""

    def __init__(self) -> None:
        self._behaviors: dict[str, Behavior] = {}
        self._errors = ErrorInterceptor(_log)

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Ignore them: the next method is given the same ones."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        for name, handler in handlers.items():
            self._behaviors[f"/{service}/{name}"] = behavior_of(handler)[1]

    async def run(self, path: str, request: object, context: Context) -> object:
        """Run a method to its end. Returns the answer of a method that has a single one.

        Raises:
            AioRpcError: the method ended with a status other than OK, or the call's time was over.
        """
        answer: object = None
        try:
            async with asyncio.timeout(context.time_remaining()):
                answer = await self._errors.around(
                    self._behaviors[path], path, request, cast(_ServicerContext, context)
                )
        except TimeoutError:
            context.set_code(grpc.StatusCode.DEADLINE_EXCEEDED)
            context.set_details("the time of the call is over")
        if context.status.code() is not grpc.StatusCode.OK:
            raise context.status
        return answer


class BlockingCall:
    """A call that any thread but the event loop's makes, with an answer of several messages."""

    def __init__(
        self, methods: Methods, loop: asyncio.AbstractEventLoop, path: str, request: object, make_context: MakeContext
    ) -> None:
        # Not bounded: the messages are in memory already, and a slow reader must not hold up the event loop.
        self._messages: queue.SimpleQueue[object] = queue.SimpleQueue()
        context = make_context(self._messages.put)
        self._work = asyncio.run_coroutine_threadsafe(methods.run(path, request, context), loop)
        self._work.add_done_callback(lambda _: self._messages.put(_END))

    def __iter__(self) -> Iterator[Any]:
        while (message := self._messages.get()) is not _END:
            yield message
        self.result()

    def result(self) -> object:
        """The answer of a method that has a single one.

        Raises:
            AioRpcError: the call failed, or was cancelled.
        """
        try:
            return self._work.result()
        except CancelledError:
            raise _cancelled() from None

    def cancel(self) -> None:
        """Give the call up; nothing happens if it has ended."""
        self._work.cancel()


class InProcessChannel(grpc.Channel):
    """A channel of blocking calls, as `visionsplit_client.Transport` opens them."""

    def __init__(self, methods: Methods, loop: asyncio.AbstractEventLoop) -> None:
        """`loop` runs the methods, in another thread than those that call."""
        self._methods = methods
        self._loop = loop
        self._calls: weakref.WeakSet[BlockingCall] = weakref.WeakSet()

    def unary_unary(self, method: str, *_: object, **__: object) -> Any:  # noqa: ANN401 - grpc types none of these
        return lambda request, **options: self._call(method, request, **options).result()

    def unary_stream(self, method: str, *_: object, **__: object) -> Any:  # noqa: ANN401
        return partial(self._call, method)

    def stream_unary(self, method: str, *_: object, **__: object) -> Any:  # noqa: ANN401
        raise NotImplementedError("the services have no such method")

    def stream_stream(self, method: str, *_: object, **__: object) -> Any:  # noqa: ANN401
        return lambda requests, **options: self._call(method, _each(requests), **options)

    def subscribe(self, callback: Callable[..., object], try_to_connect: bool = False) -> None:
        """Do nothing: what is in this process is always connected."""

    def unsubscribe(self, callback: Callable[..., object]) -> None:
        """Do nothing, as `subscribe`."""

    def close(self) -> None:
        """End the calls that still run with CANCELLED."""
        for call in list(self._calls):
            call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(
        self, method: str, request: object, *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> BlockingCall:
        call = BlockingCall(self._methods, self._loop, method, request, partial(Context, metadata, timeout))
        self._calls.add(call)
        return call


class InProcessConnection(LlmConnection):
    """The encoder's connection to the LLM service. Used on the event loop that runs the methods."""

    def __init__(self, methods: Methods) -> None:
        self._methods = methods

    def stub(self) -> "llm_service_pb2_grpc.LlmServiceAsyncStub":
        return llm_service_pb2_grpc.LlmServiceStub(cast(grpc.aio.Channel, self))

    def health(self) -> "health_pb2_grpc.HealthAsyncStub":
        raise NotImplementedError("a single LLM service is not asked for its health")

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def unary_unary(self, method: str, *_: object, **__: object) -> Any:  # noqa: ANN401 - for the stub, as the next
        return None

    def stream_stream(self, method: str, *_: object, **__: object) -> Any:  # noqa: ANN401
        return lambda **options: UploadCall(self._methods, method, **options)


class UploadCall:
    """A call with a streamed request: the part of `grpc.aio.StreamStreamCall` that the encoder uses."""

    def __init__(
        self, methods: Methods, path: str, *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> None:
        # Neither is bounded: all that is written lies in memory already, and the reader is never slower for long.
        self._requests: asyncio.Queue[object] = asyncio.Queue()
        self._answers: asyncio.Queue[object] = asyncio.Queue()
        self._context = Context(metadata, timeout, self._answers.put_nowait)
        self._work = asyncio.ensure_future(methods.run(path, _until_end(self._requests), self._context))
        self._work.add_done_callback(self._note_end)

    async def write(self, request: object) -> None:
        self._check_runs()
        self._requests.put_nowait(request)

    async def done_writing(self) -> None:
        self._check_runs()
        self._requests.put_nowait(_END)

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for answer in _until_end(self._answers):
            yield answer
        if (status := self._status()).code() is not grpc.StatusCode.OK:
            raise status

    def cancel(self) -> None:
        self._work.cancel()

    def add_done_callback(self, callback: Callable[["UploadCall"], None]) -> None:
        self._work.add_done_callback(lambda _: callback(self))

    async def code(self) -> grpc.StatusCode:
        return self._status().code()

    async def details(self) -> str:
        return self._status().details() or ""

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return self._status().trailing_metadata()

    def _status(self) -> grpc.aio.AioRpcError:
        """Of a call that has ended."""
        return _cancelled() if self._work.cancelled() else self._context.status

    def _check_runs(self) -> None:
        if self._work.done():
            raise asyncio.InvalidStateError("the call has ended")

    def _note_end(self, work: "asyncio.Future[object]") -> None:
        if not work.cancelled():
            work.exception()  # its status says the same; asyncio would complain about one that nobody looks at
        self._answers.put_nowait(_END)


def _cancelled() -> grpc.aio.AioRpcError:
    metadata = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, metadata, metadata, "the call was cancelled")


async def _each(messages: Iterable[object]) -> AsyncIterator[object]:
    for message in messages:
        yield message


async def _until_end(messages: asyncio.Queue[object]) -> AsyncIterator[object]:
    while (message := await messages.get()) is not _END:
        yield message
