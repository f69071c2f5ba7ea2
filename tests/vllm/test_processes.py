"""vLLM's processes: they follow their service, whatever happens to either."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import grpc
import psutil
import pytest

from tests.integration.llm.engines import RESTART_SECONDS, core_pid, engine_of, settles
from tests.integration.llm.support import Services, Whole, collect

pytestmark = pytest.mark.asyncio(loop_scope="session")


def worker_of(core: int) -> psutil.Process:
    """The process that computes: of the core's children the largest, beside the resource tracker."""
    return max(psutil.Process(core).children(), key=lambda child: child.memory_info().rss)


async def test_ctrl_c_ends_no_answer(services: Services, llama: Whole):
    """A terminal sends it to all processes; the service alone decides when its engine ends."""
    server, caller = await services.get(llama)
    call = caller.call(caller.upload("Hi", max_new_tokens=200))
    await call.read()
    core = core_pid(engine_of(server))
    for pid in (core, worker_of(core).pid):
        os.kill(pid, signal.SIGINT)
    assert len((await collect(call)).token_ids) == 199
    assert core_pid(engine_of(server)) == core


async def test_what_computes_on_a_cpu_has_intels_openmp(services: Services, llama: Whole):
    server, _ = await services.get(llama)
    loaded = [Path(file.path).name for file in worker_of(core_pid(engine_of(server))).memory_maps()]
    assert "libiomp5.so" in loaded


async def test_a_lost_worker_is_a_failed_step_and_vllm_starts_again(services: Services, llama: Whole):
    server, caller = await services.get(llama)
    engine = engine_of(server)
    lost = core_pid(engine)
    call = caller.call(caller.upload("Hi", max_new_tokens=900))
    await call.read()
    worker_of(lost).kill()
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await collect(call)
    assert failure.value.code() is grpc.StatusCode.INTERNAL
    async with asyncio.timeout(RESTART_SECONDS):
        assert (await caller.generate("Hi", max_new_tokens=6)).token_ids == llama.generate("Hi", [], max_new_tokens=6)
    assert not psutil.pid_exists(lost) or psutil.Process(lost).status() == psutil.STATUS_ZOMBIE


async def test_an_idle_core_that_ends_is_started_again(services: Services, llama: Whole):
    server, caller = await services.get(llama)
    engine = engine_of(server)
    os.kill(core_pid(engine), signal.SIGKILL)
    await settles(lambda: engine._supervisor.running is None, 20)
    await settles(lambda: engine._supervisor.running is not None, RESTART_SECONDS)
    assert (await caller.generate("Hi", max_new_tokens=6)).token_ids == llama.generate("Hi", [], max_new_tokens=6)


async def test_a_killed_service_leaves_no_process(llama: Whole):
    options = ("--model", str(llama.path), "--device", "cpu", "--listen", "127.0.0.1:0", "--engine", "vllm")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "llm_service", *options, "--vllm-options", '{"enforce_eager": true}'),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(RESTART_SECONDS):
            while b" serving " not in (line := await process.stderr.readline()):
                assert line, "the service has ended"
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 2
    finally:
        process.kill()
        await process.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, children, timeout=20)
    assert not alive
