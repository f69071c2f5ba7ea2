"""Errors as statuses over a real socket: whole, bounded, and silent when the caller has left."""

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from visionsplit.errors import InvalidCompressionError, InvalidRequestError
from visionsplit.network.transport import MIB
from visionsplit.receiving.receiver import ReceiveLimits, Receiver
from visionsplit.serving.caller import Callers
from visionsplit.serving.interceptors import ErrorInterceptor
from visionsplit.serving.server_options import server_options
from visionsplit.v1 import encoder_service_pb2, encoder_service_pb2_grpc, tensor_pb2, vision_tokens_pb2
from visionsplit.wire.grpc_status import error_from_rpc

LOG = logging.getLogger("tests.status")
Request = encoder_service_pb2.EncodeRequest
Response = encoder_service_pb2.EncodeResponse
Handler = Callable[[Any], Awaitable[None]]


class Service(encoder_service_pb2_grpc.EncoderServiceServicer):
    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def Encode(self, request: Request, context: Any) -> None:  # noqa: N802
        await self._handler(context)


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[encoder_service_pb2_grpc.EncoderServiceStub]:
    options = server_options(max_receive_bytes=MIB, max_calls=8)
    server = grpc.aio.server(interceptors=[ErrorInterceptor(LOG)], options=options)
    encoder_service_pb2_grpc.add_EncoderServiceServicer_to_server(Service(handler), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield encoder_service_pb2_grpc.EncoderServiceStub(channel)
    finally:
        await server.stop(None)


async def failure_of(stub: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.Encode(Request()):
            pass
    return caught.value


@pytest.mark.parametrize("letter", ["x", "%", "\n", "é", "字", "🙂"])
@pytest.mark.parametrize("length", [1000, 5000, 20_000, 100_000])
async def test_a_text_of_any_length_keeps_its_status(letter: str, length: int) -> None:
    text = "unknown method " + letter * length

    async def fail(context: Any) -> None:
        raise InvalidCompressionError(text)

    async with serving(fail) as stub:
        error = await failure_of(stub)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert isinstance(error_from_rpc(error), InvalidCompressionError)
    details = error.details()
    if details != text:
        assert details.endswith("…")
        assert text.startswith(details[:-1])
        assert len(details) > 300
    else:
        assert length == 1000


async def test_a_short_text_is_left_alone() -> None:
    text = "100% of 字 " * 100

    async def fail(context: Any) -> None:
        raise InvalidRequestError(text)

    async with serving(fail) as stub:
        assert (await failure_of(stub)).details() == text


async def test_an_unexpected_error_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(context: Any) -> None:
        raise RuntimeError("secret")

    async with serving(fail) as stub:
        error = await failure_of(stub)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in (error.details() or "")
    assert [record.levelname for record in caplog.records if record.name == LOG.name] == ["ERROR"]


async def test_a_caller_that_leaves_during_a_write_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    """The caller reads nothing, so the service is blocked in a write when the connection goes."""
    blocked, over = asyncio.Event(), asyncio.Event()
    chunk = vision_tokens_pb2.TokenChunk(features=tensor_pb2.Tensor(data=bytes(1 << 20)))

    async def write_on(context: Any) -> None:
        try:
            while True:
                writing = asyncio.ensure_future(context.write(Response(tokens=chunk)))
                done, _ = await asyncio.wait({writing}, timeout=0.5)
                if not done:
                    blocked.set()
                await writing
        except asyncio.CancelledError:
            # As where the cancellation comes too late: the write's own failure is what the handler sees.
            await writing
            raise
        finally:
            over.set()

    with caplog.at_level(logging.DEBUG, LOG.name):
        async with serving(write_on) as stub:
            call = stub.Encode(Request())
            await call.read()  # type: ignore[attr-defined]
            await asyncio.wait_for(blocked.wait(), 20)
            call.cancel()
            await asyncio.wait_for(over.wait(), 20)
            await asyncio.sleep(0.2)
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []
    assert any("the caller left" in record.getMessage() for record in caplog.records if record.name == LOG.name)


async def test_a_request_that_is_no_message_is_the_callers_fault(caplog: pytest.LogCaptureFixture) -> None:
    """gRPC would say UNKNOWN, with the name of the exception, and fill the log with tracebacks."""

    async def fail(context: Any) -> None:
        raise AssertionError("no request arrived")

    receiver = Receiver(ReceiveLimits(max_bytes=1024), Callers(None))
    server = grpc.aio.server(interceptors=[ErrorInterceptor(LOG), receiver.interceptor])
    encoder_service_pb2_grpc.add_EncoderServiceServicer_to_server(Service(fail), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for method in ("Encode", "GetEncoderInfo"):
            call = channel.unary_unary(f"/visionsplit.v1.EncoderService/{method}")(b"\xff\xff")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert type(error_from_rpc(caught.value)) is InvalidRequestError
            assert "DecodeError" not in str(caught.value.details())
    await server.stop(None)
    assert not caplog.records


async def test_a_refused_call_leaves_nothing_for_the_garbage_collector() -> None:
    """A request of 64 MiB would otherwise stay in memory until Python next looks for cycles."""

    class Large:
        pass

    left: list[weakref.ref[Large]] = []

    async def fail(context: Any) -> None:
        large = Large()
        left.append(weakref.ref(large))
        try:
            raise ValueError("inside")
        except ValueError as error:
            raise InvalidRequestError("refused") from error

    gc.disable()
    try:
        async with serving(fail) as stub:
            assert (await failure_of(stub)).details() == "refused"
            async with asyncio.timeout(5):
                while left[0]() is not None:  # noqa: ASYNC110 - what reference counts do
                    await asyncio.sleep(0.01)
    finally:
        gc.enable()


async def test_refused_calls_leave_their_connection_usable() -> None:
    """gRPC frees a call's stream with the call. One that a cycle keeps counts towards the streams of its connection."""

    async def fail(context: Any) -> None:
        raise InvalidRequestError("refused")

    gc.disable()
    try:
        async with serving(fail) as stub, asyncio.timeout(30):
            for _ in range(300):
                assert (await failure_of(stub)).details() == "refused"
    finally:
        gc.enable()
