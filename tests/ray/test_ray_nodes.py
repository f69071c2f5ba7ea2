"""Ray nodes that come and go: a head that runs no replica and worker nodes, all on this machine."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
from visionsplit.telemetry.config import TelemetryConfig
from visionsplit_cli.top.samples import read_samples
from visionsplit_client import AsyncClient, Retries, UnavailableError

from benchmarks.load.nodes import RayNodes, kill_node, replicas_of
from benchmarks.load.system import Service
from llm_service.config import BackendKind, RayConfig
from llm_service.server import LlmServer
from tests.integration.llm.support import Answer, Caller, Whole, collect, running
from tests.integration.test_drain import IMAGE, LONG, PROMPT, ends_whole, llm_process

SHORT = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayNodes]:
    with RayNodes() as nodes:
        yield nodes


async def taken(server: LlmServer, *, samples: int, but: frozenset[str] = frozenset()) -> frozenset[str]:
    """Wait until a number of replicas, not in `but`, report the use of their KV caches; return their names."""
    async with asyncio.timeout(60):
        while True:
            page = await asyncio.to_thread(read_samples, f"127.0.0.1:{server.metrics_port}", "llm")
            told = {
                dict(labels)["replica"]: value for (name, labels), value in page.values.items() if "kv_used" in name
            }
            if len(told) == samples and not but & told.keys():
                assert all(0 <= share <= 1 for share in told.values())
                return frozenset(told)
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def on_ray(cluster: RayNodes, llama: Whole) -> AsyncIterator[tuple[LlmServer, Caller]]:
    ray, metrics = RayConfig(address=cluster.address), TelemetryConfig(metrics="127.0.0.1:0")
    async with running(llama, backend=BackendKind.RAY, ray=ray, telemetry=metrics) as (server, caller):
        yield server, caller


async def answer_at_last(caller: Caller, llama: Whole) -> None:
    """Ask until it works; every call before ends with UNAVAILABLE, and none hangs."""
    async with asyncio.timeout(90):
        while not isinstance(outcome := await caller.status_or_answer("Hi", **SHORT), Answer):
            assert outcome is grpc.StatusCode.UNAVAILABLE
            await asyncio.sleep(0.2)
    assert outcome.token_ids == llama.generate("Hi", [], **SHORT)


async def test_a_killed_node_takes_its_calls_and_its_replica_starts_on_another(cluster, llama: Whole) -> None:
    first = cluster.add()
    async with on_ray(cluster, llama) as (server, caller):
        (replica,) = replicas_of(first)
        name = await taken(server, samples=1)
        replica.suspend()
        await taken(server, samples=0)  # missing, not old
        replica.resume()
        assert await taken(server, samples=1) == name

        second = cluster.add()
        call = caller.call(caller.upload("Hi", max_new_tokens=1000))
        await call.read()
        kill_node(first)
        killed = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            async with asyncio.timeout(60):
                await collect(call)
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        told = time.monotonic()
        await answer_at_last(caller, llama)
        print(f"UNAVAILABLE {told - killed:.1f} s after the node was killed, answers {time.monotonic() - killed:.1f} s")
        assert replicas_of(second)
        await taken(server, samples=1, but=name)


def pids(cluster: RayNodes) -> set[int]:
    return {replica.pid for replica in cluster.replicas()}


async def starts_again(service: Service) -> None:
    """Killed, not told to end."""
    await asyncio.to_thread(service.stop, signal.SIGKILL)
    service.start()
    print(f"a gateway serves {await asyncio.to_thread(service.wait_until_serving):.1f} s after its start")


async def test_a_gateway_takes_over_the_replicas_that_its_killed_forerunner_left(cluster, llama: Whole) -> None:
    """On the node that the other test has left. One that is told to end lets its answers end and takes them away."""
    ray = ("--backend", "ray", "--ray-address", cluster.address)
    async with llm_process(str(llama.path), "60", *ray) as (service, encoder):
        (replica,) = pids(cluster)
        async with (
            AsyncClient(encoder, retries=Retries(attempts=1), timeout=60) as client,
            client.stream(IMAGE, PROMPT, sampling=LONG) as stream,
        ):
            await anext(stream)
            await starts_again(service)
            assert pids(cluster) == {replica}
            with pytest.raises(UnavailableError):
                await stream.result()
        service.arguments += ["--kv-tokens", "8192"]  # other settings need other replicas
        await starts_again(service)
        assert len(pids(cluster) - {replica}) == len(pids(cluster)) == 1
        await ends_whole(service, encoder)
        assert not pids(cluster)
