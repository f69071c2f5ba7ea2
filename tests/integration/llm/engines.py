"""What tests do to the engine of a running service, whichever it is."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llm_service.config import EngineKind
from llm_service.server import LlmServer
from tests.integration.llm.support import ENGINE

# After a failure vLLM starts new processes, and each of them imports vLLM again.
RESTART_SECONDS = 30.0 if ENGINE is EngineKind.TRANSFORMERS else 500.0


def engine_of(server: LlmServer) -> Any:
    return server._backend._replica._engine


async def settles(condition: Callable[[], bool], seconds: float = 5.0):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for belongs to another thread
            await asyncio.sleep(0.01)


def holds_nothing(server: LlmServer) -> bool:
    """Whether no request has a place in the engine any more, and none holds rows."""
    engine = engine_of(server)
    return engine._admission._running == 0 and engine._admission._waiting == 0 and engine.use.slab_tokens_used == 0


def core_pid(engine: Any) -> int:
    """The process of vLLM's engine core."""
    pid: int = engine._supervisor.running.llm.engine_core.resources.engine_manager.processes[0].pid
    return pid


def fail_next_step(engine: Any) -> None:
    """Make what decodes fail once."""
    if ENGINE is EngineKind.VLLM:
        os.kill(core_pid(engine), signal.SIGKILL)
        return

    def explode(*_):
        handle.remove()
        raise RuntimeError("device lost")

    handle = engine._model.model.layers[0].register_forward_pre_hook(explode)


@contextmanager
def held_steps(engine: Any) -> Iterator[None]:
    """No step of the engine ends inside."""
    if ENGINE is EngineKind.VLLM:
        pid = core_pid(engine)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)
        return
    go = threading.Event()
    handle = engine._model.model.layers[0].register_forward_pre_hook(lambda *_: go.wait(60) and None)
    try:
        yield
    finally:
        handle.remove()
        go.set()
