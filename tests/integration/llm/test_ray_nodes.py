"""Ray nodes that come and go: a head that runs no replica and worker nodes, all on this machine."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace

import grpc
import psutil
import pytest
from visionsplit.telemetry.config import TelemetryConfig
from visionsplit_client.cli._samples import read_samples

from llm_service.config import BackendKind, RayConfig
from llm_service.server import LlmServer
from tests.integration.llm.support import Answer, Caller, Whole, collect, running
from tests.integration.test_drain import ends_whole, llm_process

OBJECT_STORE = 80 * 2**20  # bytes; less than that Ray does not take
SHORT = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def cluster() -> Iterator[SimpleNamespace]:
    """As docker-compose.yml has it: a head without processors. `add` adds a worker node and gives its raylet."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": OBJECT_STORE}
    nodes = Cluster(initialize_head=True, head_node_args=head)

    def add() -> psutil.Process:
        node = nodes.add_node(num_cpus=1, object_store_memory=OBJECT_STORE)
        return psutil.Process(node.all_processes["raylet"][0].process.pid)

    yield SimpleNamespace(address=nodes.address, add=add)
    nodes.shutdown()


def replicas_of(raylet: psutil.Process) -> list[psutil.Process]:
    return [child for child in raylet.children(recursive=True) if "LlmReplica" in " ".join(child.cmdline())]


def kill(raylet: psutil.Process) -> None:
    """As if the machine were gone: the node's own processes and everything that they had started."""
    for process in (raylet, *raylet.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


async def taken(server: LlmServer, *, samples: int, but: frozenset[str] = frozenset()) -> frozenset[str]:
    """Waits until so many replicas say what of their KV cache is taken, none of them of `but`; gives their names."""
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
async def on_ray(cluster: SimpleNamespace, llama: Whole) -> AsyncIterator[tuple[LlmServer, Caller]]:
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
        kill(first)
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


async def test_a_gateway_of_a_cluster_lets_its_answers_end(cluster, llama: Whole) -> None:
    """On the node that the other test has left."""
    ray = ("--backend", "ray", "--ray-address", cluster.address)
    async with llm_process(str(llama.path), "60", *ray) as (service, encoder):
        await ends_whole(service, encoder)
