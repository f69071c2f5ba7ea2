"""The health service over real sockets: watchers come and go, read slowly, name unknown services, or are too many."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from visionsplit.serving import health
from visionsplit.serving.by_caller import ByCaller
from visionsplit.serving.caller import Callers
from visionsplit.serving.health import INSTANCE_KEY, HealthService
from visionsplit.serving.interceptors import ErrorInterceptor

from tests.fuzzing.attacks.http2 import Http2Client

SERVICE = "visionsplit.v1.LlmService"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = (
    getattr(health_pb2.HealthCheckResponse, name) for name in ("SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
)


def request(service=SERVICE):
    return health_pb2.HealthCheckRequest(service=service)


@asynccontextmanager
async def running(service: HealthService) -> AsyncIterator[tuple[str, health_pb2_grpc.HealthStub]]:
    server = grpc.aio.server(interceptors=[ErrorInterceptor(logging.getLogger("tests.health"))])
    health_pb2_grpc.add_HealthServicer_to_server(service, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield address, health_pb2_grpc.HealthStub(channel)
    finally:
        await server.stop(None)


class Watcher:
    """A watcher that reads all the time and remembers the last status."""

    def __init__(self, stub: health_pb2_grpc.HealthStub, name: str):
        self.call = stub.Watch(request(name))
        self.last = None
        self._reading = asyncio.create_task(self._read())

    async def _read(self):
        async for response in self.call:
            self.last = response.status

    async def leave(self):
        self.call.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what other tasks do
            await asyncio.sleep(0.002)


async def test_a_second_watcher_that_leaves_costs_the_first_nothing():
    service = HealthService(SERVICE)
    async with running(service) as (_, stub):
        first, second = stub.Watch(request()), stub.Watch(request())
        assert (await first.read()).status == (await second.read()).status == NOT_SERVING
        second.cancel()
        await until(lambda: len(service._watchers) == 1)
        service.set(serving=True)
        assert (await asyncio.wait_for(first.read(), 5)).status == SERVING


async def test_two_hundred_orders_of_coming_leaving_and_changing(caplog):
    """After each step every watcher that is there holds the present status, by both names."""
    service, rng = HealthService(SERVICE), random.Random(0)
    watchers: list[Watcher] = []
    async with running(service) as (_, stub):
        for _ in range(200):
            for step in rng.sample(("come", "leave", "change", "change twice"), rng.randint(1, 4)):
                if step == "come":
                    watchers.append(Watcher(stub, rng.choice(("", SERVICE))))
                elif step == "leave" and watchers:
                    await watchers.pop(rng.randrange(len(watchers))).leave()
                elif step == "change":
                    service.set(serving=rng.random() < 0.5)
                else:
                    service.set(serving=False)
                    service.set(serving=True)
            status = (await stub.Check(request())).status
            await until(lambda status=status: all(watcher.last == status for watcher in watchers))
        for watcher in watchers:
            await watcher.leave()
        await until(lambda: not service._watchers)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_the_end_is_for_good():
    service = HealthService(SERVICE)
    service.set(serving=True)
    async with running(service) as (_, stub):
        watch = stub.Watch(request(""))
        assert (await watch.read()).status == SERVING
        service.shut_down()
        service.set(serving=True)
        assert (await watch.read()).status == NOT_SERVING
        assert (await stub.Check(request(""))).status == NOT_SERVING


async def test_unknown_names_are_not_found_and_leave_nothing():
    service = HealthService(SERVICE)
    async with running(service) as (_, stub):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(request("x" * 100_000))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert len(caught.value.details()) < 300
        watch = stub.Watch(request("invented"))
        assert (await watch.read()).status == SERVICE_UNKNOWN
        service.set(serving=True)
        with pytest.raises(TimeoutError):  # the protocol: the call stays open, and hears of no other service
            await asyncio.wait_for(watch.read(), 0.2)
        watch.cancel()
        await until(lambda: not service._watchers)


async def test_of_too_many_watchers_the_oldest_ends_and_checks_go_on(monkeypatch):
    monkeypatch.setattr(health, "MAX_WATCHERS", 6)
    service = HealthService(SERVICE)
    async with running(service) as (_, stub):
        held = []
        for name in ("", SERVICE, "invented") * 2:
            held.append(stub.Watch(request(name)))
            await held[-1].read()
        held.append(stub.Watch(request()))
        assert (await held[-1].read()).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await held[0].read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        service.set(serving=True)
        assert (await stub.Check(request())).status == SERVING
        for call in (held[1], held[3], held[4], held[6]):
            assert (await call.read()).status == SERVING
        assert len(service._watchers) == 6


async def test_watchers_that_never_read_keep_out_none_but_their_own_address(monkeypatch):
    monkeypatch.setattr(health, "MAX_WATCHERS", 6)
    service = HealthService(SERVICE)
    async with running(service) as (address, stub), Http2Client.connected(address, window=0) as silent:
        streams = [await silent.begin("/grpc.health.v1.Health/Watch") for _ in range(20)]
        for stream in streams:
            await silent.send(stream, bytes(5), end=True)
        async with asyncio.timeout(5):
            for stream in streams[12:]:
                await silent.finished(stream)  # refused, which a client hears of without reading
        assert not silent.ended & set(streams[:12])
        assert (await stub.Check(request())).status == NOT_SERVING
        monkeypatch.setattr(service._peers, "of", lambda context: "another address")
        watch = stub.Watch(request())
        assert (await watch.read()).status == NOT_SERVING
        service.set(serving=True)
        assert (await watch.read()).status == SERVING
        watch.cancel()
    await until(lambda: not service._watchers)
    assert not service._unread


def test_what_is_given_up_first_is_the_oldest_of_the_caller_with_the_most():
    items = ByCaller()
    for number, caller in enumerate("abbcbc"):
        items.add(caller, number)
    assert items.oldest_of_busiest() == 1
    for number in (1, 1, 2):
        items.remove("b", number)
    assert items.oldest_of_busiest() == 3
    assert len(items) == len(list(items)) == 4


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("ipv4:1.2.3.4:5000", "ipv4:1.2.3.4"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:5000", "ipv6:2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5000", "ipv6:fe80::/64"),
        ("ipv6:%5B::ffff:1.2.3.4%5D:5000", "ipv4:1.2.3.4"),
        ("unix:/tmp/socket", "unix:/tmp/socket"),
    ],
)
def test_an_address_has_one_name(peer, name):
    class Context:
        def invocation_metadata(self):
            return ()

        def peer(self):
            return peer

    assert Callers(None).of(Context()) == name


async def test_a_watcher_that_does_not_read_delays_nobody_and_gets_no_backlog():
    """Its stream takes no byte; ten thousand changes later another one is told at once, and little is kept."""
    service = HealthService(SERVICE)
    async with running(service) as (address, stub):
        async with Http2Client.connected(address, window=0) as silent:
            stream = await silent.begin("/grpc.health.v1.Health/Watch")
            await silent.send(stream, bytes(5), end=True)
            await until(lambda: len(service._watchers) == 1)
            reader = stub.Watch(request())
            assert (await reader.read()).status == NOT_SERVING
            for number in range(10_001):
                service.set(serving=number % 2 == 0)
                await asyncio.sleep(0)
            assert (await asyncio.wait_for(reader.read(), 1)).status == SERVING
            size = 5 + len(health_pb2.HealthCheckResponse(status=SERVING).SerializeToString())
            silent.open_window(stream, 1 << 20)
            await silent.flush()
            await until(lambda: silent.received[stream] == 2 * size)  # the first status and the last
            await asyncio.sleep(0.1)
            assert silent.received[stream] == 2 * size
        await until(lambda: len(service._watchers) == 1)


async def test_each_start_has_an_instance():
    seen = set()
    for _ in range(2):
        service = HealthService(SERVICE)
        async with running(service) as (_, stub):
            for _ in range(2):
                call = stub.Check(request())
                await call
                seen.add((await call.trailing_metadata())[INSTANCE_KEY])
    assert len(seen) == 2
