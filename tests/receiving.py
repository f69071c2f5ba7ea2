"""A server that receives requests like the services, with methods that only report what arrived."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from visionsplit.network.transport import MIB
from visionsplit.receiving.receiver import ReceiveLimits, Receiver
from visionsplit.serving.caller import Callers
from visionsplit.serving.interceptors import ErrorInterceptor
from visionsplit.serving.server_options import server_options
from visionsplit.v1 import encoder_service_pb2 as encoder_pb
from visionsplit.v1 import llm_service_pb2 as llm_pb
from visionsplit.v1.encoder_service_pb2_grpc import (
    EncoderServiceServicer,
    EncoderServiceStub,
    add_EncoderServiceServicer_to_server,
)
from visionsplit.v1.llm_service_pb2_grpc import LlmServiceServicer, add_LlmServiceServicer_to_server

ENCODE, CHECK = "/visionsplit.v1.EncoderService/Encode", "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
UPLOAD = "/visionsplit.v1.LlmService/Generate"
EXHAUSTED, TOO_LATE, UNIMPLEMENTED = "8", "4", "12"
LIMITS = ReceiveLimits(max_bytes=32 * MIB)


class Services(EncoderServiceServicer, LlmServiceServicer):
    """Answers with what has come, once it may."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.inside = 0
        self.remaining: float | None = None

    async def Encode(self, request, context):  # noqa: N802
        self.inside += 1
        self.remaining = context.time_remaining()
        try:
            await self.go_on.wait()
            await context.write(encoder_pb.EncodeResponse(header={"format": {"feature_size": len(request.image.data)}}))
        finally:
            self.inside -= 1

    async def GetEncoderInfo(self, request, context):  # noqa: N802
        return encoder_pb.GetEncoderInfoResponse(model="m")

    async def Generate(self, request_iterator, context):  # noqa: N802
        number = len([message async for message in request_iterator])
        await context.write(llm_pb.LlmServiceGenerateResponse(delta={"text": str(number)}))


@asynccontextmanager
async def serving(
    limits: ReceiveLimits = LIMITS, max_calls: int = 128, *, relayed: bool = False
) -> AsyncIterator[tuple[str, Receiver, Services]]:
    receiver, services = Receiver(limits, Callers(None, relayed=relayed)), Services()
    server = grpc.aio.server(
        interceptors=[ErrorInterceptor(logging.getLogger("tests.receiving")), receiver.interceptor],
        options=server_options(max_receive_bytes=limits.max_bytes, max_calls=max_calls),
    )
    add_EncoderServiceServicer_to_server(services, server)
    add_LlmServiceServicer_to_server(services, server)
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    reflection.enable_server_reflection(("visionsplit.v1.EncoderService",), server)
    port = server.add_insecure_port("127.0.0.1:0")
    receiver.start()
    await server.start()
    try:
        yield f"127.0.0.1:{port}", receiver, services
    finally:
        await server.stop(None)
        await receiver.close()


@asynccontextmanager
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    options += [("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 500)]
    async with grpc.aio.insecure_channel(address, options=options) as opened:
        yield opened


async def check(address: str) -> float:
    """Seconds that a health check over a new connection takes."""
    started = time.monotonic()
    async with channel(address) as opened:
        await health_pb2_grpc.HealthStub(opened).Check(health_pb2.HealthCheckRequest(), timeout=20)
    return time.monotonic() - started


async def encode(address: str, num_bytes: int = 1000, **settings: Any) -> int:
    """The size of the image that arrived."""
    async with channel(address) as opened:
        request = encoder_pb.EncodeRequest(image={"data": bytes(num_bytes)})
        parts = [part async for part in EncoderServiceStub(opened).Encode(request, **settings)]
        return parts[0].header.format.feature_size


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while True:
            if condition():
                return
            await asyncio.sleep(0.02)
