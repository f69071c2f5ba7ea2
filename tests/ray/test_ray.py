"""The same gateway on Ray Serve: one cluster for all tests here."""

import asyncio
import signal

import grpc
import psutil
import pytest
from visionsplit.v1 import generation_pb2, llm_service_pb2

from benchmarks.load.nodes import replicas_of
from llm_service.config import BackendKind, RayConfig
from tests.integration.llm.support import Answer, Caller, Whole, collect, picture, running, together

ASK = "USER: <image>\nWhat? ASSISTANT:"


@pytest.fixture(scope="module")
def cluster():
    """One cluster for the module; the services here join it."""
    ray = pytest.importorskip("ray")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        configure_logging=False,
    )
    yield
    ray.shutdown()  # Ray Serve ends with it; its own shutdown would need the event loops of the tests


@pytest.fixture
async def ray_caller(cluster, llama: Whole):
    ray_config = RayConfig(num_cpus=0.5, health_check_period_s=1.0)
    async with running(llama, backend=BackendKind.RAY, ray=ray_config) as (_, caller):
        yield caller


async def test_two_services_on_one_cluster(cluster, llama: Whole, wholes: dict[str, Whole]):
    """Each has a separate application and deletes only that one."""
    ray_config, other = RayConfig(num_cpus=0.5), wholes["qwen2"]
    async with running(llama, backend=BackendKind.RAY, ray=ray_config) as (_, caller):
        async with running(other, backend=BackendKind.RAY, ray=ray_config) as (_, other_caller):
            answers = await together(
                caller.generate("Hi", max_new_tokens=6), other_caller.generate("Hi", max_new_tokens=6)
            )
            expected = [whole.generate("Hi", [], max_new_tokens=6) for whole in (llama, other)]
            assert [answer.token_ids for answer in answers] == expected
        assert (await caller.generate("Hi", max_new_tokens=6)).token_ids == expected[0]
        assert (await caller.stub.GetLlmInfo(llm_service_pb2.GetLlmInfoRequest())).replicas == 1


def replicas() -> list[psutil.Process]:
    """Of the cluster that this process has started."""
    return replicas_of(psutil.Process())


async def test_the_path_on_ray(ray_caller: Caller, llama: Whole):
    caller = ray_caller
    info = await caller.stub.GetLlmInfo(llm_service_pb2.GetLlmInfoRequest())
    assert (info.backend, info.replicas) == ("ray", 1)
    pictures = [picture(112, 90, index) for index in range(4)]
    expected = [llama.generate(ASK, [image], max_new_tokens=10) for image in pictures]
    answers = await together(*(caller.generate(ASK, [llama.tokens(image)], max_new_tokens=10) for image in pictures))
    assert [answer.token_ids for answer in answers] == expected
    # The replica's own refusal comes back as itself.
    status, _, name = await caller.status_of(caller.upload("hi", max_new_tokens=2000))
    assert (status, name) == (grpc.StatusCode.INVALID_ARGUMENT, "PromptTooLongError")
    await pruning_reaches_the_replica(caller, llama)
    await cancelling_reaches_the_replica(caller)
    await a_lost_replica_is_unavailable(caller, llama)


async def pruning_reaches_the_replica(caller: Caller, llama: Whole):
    """The quotas too, which travel apart from the job."""
    parts = caller.upload(ASK, [llama.tokens(picture(112, 90))], max_new_tokens=4)
    parts[0].header.prefill.pruning.CopyFrom(generation_pb2.Pruning(method="fastv", parameters={"layer": 1}))
    parts[1].image.quotas[:] = [3, 1, 0, 2, 1]
    summary = (await collect(caller.call(parts))).summary
    usage = summary.usage
    left = usage.text_tokens + usage.newline_tokens + 7
    assert list(summary.layer_tokens) == [usage.prompt_tokens, left]


async def cancelling_reaches_the_replica(caller: Caller):
    """A replica decodes at most 64 requests at a time: cancelled ones that went on would hold the next ones back."""
    calls = [caller.call(caller.upload("Hi", max_new_tokens=1000)) for _ in range(8)]
    for call in calls:
        await call.read()
        call.cancel()
    process = replicas()[0]
    async with asyncio.timeout(20):
        while process.cpu_percent(interval=0.5) > 30:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)


async def a_lost_replica_is_unavailable(caller: Caller, llama: Whole):
    call = caller.call(caller.upload("Hi", max_new_tokens=1000))
    await call.read()
    for process in replicas():
        process.send_signal(signal.SIGKILL)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await collect(call)
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    async with asyncio.timeout(60):
        while True:
            answer = await caller.status_or_answer("Hi", max_new_tokens=6)
            if isinstance(answer, Answer):
                break
            assert answer is grpc.StatusCode.UNAVAILABLE
            await asyncio.sleep(0.2)
    assert answer.token_ids == llama.generate("Hi", [], max_new_tokens=6)
