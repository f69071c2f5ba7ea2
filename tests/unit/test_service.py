"""The server that both services are: what is given back when it cannot start, and how it ends."""

import asyncio
import logging
import socket
from dataclasses import replace

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from visionsplit.errors import UnavailableError
from visionsplit.receiving.receiver import ReceiveLimits, Receiver
from visionsplit.server.config import ServiceConfig
from visionsplit.server.server import Opened, Service, ServiceServer
from visionsplit.serving.overload import CallGate
from visionsplit.telemetry.config import TelemetryConfig

NAME = "visionsplit.v1.EncoderService"
CONFIG = ServiceConfig("m", listen="127.0.0.1:0", telemetry=TelemetryConfig(metrics="127.0.0.1:0"))


class Recorded(ServiceServer):
    """Writes down what is asked of a service; its loading or its beginning may fail."""

    def __init__(self, config: ServiceConfig = CONFIG, fails: str = "") -> None:
        super().__init__(Service("test", NAME), config, ReceiveLimits(max_bytes=1024))
        self.asked: list[str] = []
        self.gate = CallGate("the service is stopping")
        self._fails = fails

    def _note(self, name: str) -> None:
        self.asked.append(name)
        if name == self._fails:
            raise RuntimeError(f"{name} fails")

    async def open(self, receiver: Receiver) -> Opened:
        self._note("open")
        return Opened("m", lambda server: None, self.gate, 4)

    async def serving(self) -> None:
        self._note("serving")

    async def ending(self) -> None:
        self._note("ending")

    async def release(self) -> None:
        self._note("release")


async def test_health_is_told_from_the_start_to_the_end() -> None:
    server = Recorded()
    port = await server.start()
    assert port == server.port
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for name in ("", NAME):
            reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=NAME))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        with server.gate.inside():
            stopping = asyncio.create_task(server.stop(grace=30))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert not stopping.done()
        await stopping
    assert server.asked == ["open", "serving", "ending", "release"]


@pytest.mark.parametrize("fails", ["open", "serving"])
async def test_whatever_fails_at_the_start_everything_is_given_back(fails: str) -> None:
    server = Recorded(fails=fails)
    with pytest.raises(RuntimeError, match=f"{fails} fails"):
        await server.start()
    assert server.asked[-2:] == ["ending", "release"]
    assert server.metrics_port is None
    if server.port:
        socket.create_server(("127.0.0.1", server.port)).close()  # nobody listens there


@pytest.mark.parametrize("setting", ["listen", "metrics"])
async def test_an_address_in_use_is_named(setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        config = (
            replace(CONFIG, listen=address)
            if setting == "listen"
            else replace(CONFIG, telemetry=TelemetryConfig(metrics=address))
        )
        server = Recorded(config)
        with pytest.raises(UnavailableError, match=address):
            await server.start()
    assert server.asked == ["open", "ending", "release"]


async def test_calls_that_outlast_their_grace_are_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    server = Recorded()
    await server.start()
    with server.gate.inside(), caplog.at_level(logging.WARNING):
        await server.stop(grace=0.05)
    assert "calls still run after 0.05 seconds of grace" in caplog.text
