"""Two replicas with vLLM on Ray Serve: each has its own core, one may die, and a stop waits for answers."""

import asyncio
import signal

import grpc
import psutil
import pytest
from visionsplit.v1 import llm_service_pb2

from llm_service.config import BackendKind, RayConfig
from tests.integration.llm.engines import RESTART_SECONDS
from tests.integration.llm.support import Answer, Whole, collect, picture, running, together
from tests.ray.test_ray import cluster, replicas

__all__ = ["cluster"]
ASK = "USER: <image>\nWhat? ASSISTANT:"


@pytest.mark.timeout(1800)
async def test_two_replicas(cluster, llama: Whole):
    ray = RayConfig(num_cpus=0.5, health_check_period_s=1.0)
    async with running(llama, backend=BackendKind.RAY, ray=ray, replicas=2) as (server, caller):
        info = await caller.stub.GetLlmInfo(llm_service_pb2.GetLlmInfoRequest())
        assert (info.backend, info.replicas, info.engine) == ("ray", 2, "vllm")
        pictures = [picture(112, 90, index) for index in range(8)]
        expected = [llama.generate(ASK, [image], max_new_tokens=10) for image in pictures]
        crowd = (caller.generate(ASK, [llama.tokens(image)], max_new_tokens=10) for image in pictures)
        assert [answer.token_ids for answer in await together(*crowd)] == expected
        status, _, name = await caller.status_of(caller.upload("hi", max_new_tokens=2000))
        assert (status, name) == (grpc.StatusCode.INVALID_ARGUMENT, "PromptTooLongError")

        # The loss of one replica ends its streams; the other one answers at once, and a new one comes.
        calls = [caller.call(caller.upload(f"Hi {number}", max_new_tokens=900)) for number in range(8)]
        for call in calls:
            await call.read()
        lost = replicas()[0]
        cores = lost.children(recursive=True)
        assert cores
        lost.send_signal(signal.SIGKILL)
        outcomes = await together(*(_outcome(call) for call in calls))
        assert {grpc.StatusCode.UNAVAILABLE, None} == set(outcomes)
        async with asyncio.timeout(30):
            while not isinstance(answer := await caller.status_or_answer("Hi", max_new_tokens=6), Answer):
                assert answer is grpc.StatusCode.UNAVAILABLE
        assert answer.token_ids == llama.generate("Hi", [], max_new_tokens=6)
        _, alive = await asyncio.to_thread(psutil.wait_procs, cores, timeout=20)
        assert not alive
        async with asyncio.timeout(RESTART_SECONDS):
            while len(replicas()) < 2 or await server._backend.num_replicas() < 2:  # noqa: ASYNC110 - other processes
                await asyncio.sleep(0.5)

        # A stop waits for what is being answered.
        call = caller.call(caller.upload("Hi", max_new_tokens=200))
        await call.read()
        stopping = asyncio.create_task(server.stop(60.0))
        assert len((await collect(call)).token_ids) == 199
        await stopping


async def _outcome(call) -> grpc.StatusCode | None:
    """How a stream ends; None if with its summary."""
    try:
        await collect(call)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return None
