"""Channels to services in this process: the parts of gRPC's channels that the client and the encoder use."""

import asyncio
import queue
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, Self, TypeVar, cast

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from visionsplit.server.in_process import InProcessContext, InProcessMethods, Metadata
from visionsplit.v1 import llm_service_pb2_grpc

from encoder_service.llm.channel import LlmConnection

_T = TypeVar("_T")
Serializer = Callable[[Any], bytes]

_END = object()  # of a queue of messages


class BlockingCall:
    """A call that any thread but the event loop's makes. Iterate it for an answer of several messages."""

    def __init__(
        self,
        methods: InProcessMethods,
        loop: asyncio.AbstractEventLoop,
        path: str,
        requests: Iterable[bytes],
        timeout: float | None,
        metadata: Metadata | None,
    ) -> None:
        # Not bounded: the messages are in memory already, and a slow reader must not hold up the event loop.
        self._messages: queue.SimpleQueue[object] = queue.SimpleQueue()
        context = InProcessContext(_each(requests), metadata, timeout, self._messages.put)
        self._work = asyncio.run_coroutine_threadsafe(methods.run(path, context), loop)
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
        """Cancel the call; has no effect if it has ended."""
        self._work.cancel()


class InProcessChannel(grpc.Channel):
    """A channel of blocking calls, as `visionsplit_client.Transport` opens them."""

    def __init__(self, methods: InProcessMethods, loop: asyncio.AbstractEventLoop) -> None:
        """`loop` runs the methods, in another thread than those that call."""
        self._methods = methods
        self._loop = loop
        self._calls: weakref.WeakSet[BlockingCall] = weakref.WeakSet()

    # grpc types neither the callables that these return nor what they take.

    def unary_unary(self, method: str, request_serializer: Any = None, *_: object, **__: object) -> Any:  # noqa: ANN401
        call = self.unary_stream(method, request_serializer)
        return lambda request, **options: call(request, **options).result()

    def unary_stream(self, method: str, request_serializer: Any = None, *_: object, **__: object) -> Any:  # noqa: ANN401
        call = self.stream_stream(method, request_serializer)
        return lambda request, **options: call([request], **options)

    def stream_unary(self, method: str, *_: object, **__: object) -> Any:  # noqa: ANN401
        raise NotImplementedError("the services have no such method")

    def stream_stream(self, method: str, request_serializer: Any = None, *_: object, **__: object) -> Any:  # noqa: ANN401
        return partial(self._call, method, request_serializer)

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

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(
        self,
        method: str,
        serialize: Serializer,
        requests: Iterable[Any],
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> BlockingCall:
        call = BlockingCall(self._methods, self._loop, method, map(serialize, requests), timeout, metadata)
        self._calls.add(call)
        return call


class InProcessConnection(LlmConnection):
    """The encoder's connection to the LLM service. Used on the event loop that runs the methods.

    The encoder is loaded before the LLM service, so the methods are set after the connection is made.
    """

    methods: InProcessMethods

    def stub(self) -> "llm_service_pb2_grpc.LlmServiceAsyncStub":
        return llm_service_pb2_grpc.LlmServiceStub(cast(grpc.aio.Channel, self))

    def health(self) -> "health_pb2_grpc.HealthAsyncStub":
        raise NotImplementedError("a single LLM service is not asked for its health")

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""

    # What the stub needs of a channel. `LlmClient` asks for nothing else than Generate here.

    def unary_unary(self, method: str, *_: object, **__: object) -> Any:  # noqa: ANN401
        return None

    def stream_stream(self, method: str, request_serializer: Any, *_: object, **__: object) -> Any:  # noqa: ANN401
        return partial(UploadCall, self.methods, method, request_serializer)


class UploadCall:
    """A call with a streamed request: the part of `grpc.aio.StreamStreamCall` that the encoder uses."""

    def __init__(
        self,
        methods: InProcessMethods,
        path: str,
        serialize: Serializer,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> None:
        self._serialize = serialize
        # Not bounded either: what is written lies in memory already, and the method soon reads it.
        self._requests: asyncio.Queue[object] = asyncio.Queue()
        self._answers: asyncio.Queue[object] = asyncio.Queue()
        requests = cast("AsyncIterator[bytes]", _until_end(self._requests))
        self._context = InProcessContext(requests, metadata, timeout, self._answers.put_nowait)
        self._work = asyncio.ensure_future(methods.run(path, self._context))
        self._work.add_done_callback(self._note_end)

    async def write(self, request: object) -> None:
        self._check_runs()
        self._requests.put_nowait(self._serialize(request))

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
            work.exception()  # its status says the same; asyncio would complain if nothing looked at the exception
        self._answers.put_nowait(_END)
        self._requests.put_nowait(_END)  # ends a read of the next request, which outlives the method


def _cancelled() -> grpc.aio.AioRpcError:
    metadata = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, metadata, metadata, "the call was cancelled")


async def _each(items: Iterable[_T]) -> AsyncIterator[_T]:
    for item in items:
        yield item


async def _until_end(messages: asyncio.Queue[object]) -> AsyncIterator[object]:
    while (message := await messages.get()) is not _END:
        yield message
