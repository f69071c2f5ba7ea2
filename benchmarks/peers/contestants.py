"""The contestants: how each is started, and how one question is asked. Only one runs at a time."""

import asyncio
import ctypes.util
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from visionsplit_client import AsyncClient, Compression, Finished, Retries, Sampling, TextDelta, VisionSplitError

from benchmarks.load.system import Service, free_port
from benchmarks.peers.generate_loop import GenerateLoop
from benchmarks.peers.inputs import Request
from benchmarks.peers.plan import ENGINES, GENERATE, UNCOMPRESSED, VLLM, Condition
from benchmarks.peers.results import Sample
from benchmarks.peers.vllm_server import VllmServer, ask_openai, openai_client
from llm_service.engines.vllm.environment import with_openmp

_START_SECONDS = 900.0  # compiling takes vLLM a minute the first time, and longer on a busy machine
_ALLOCATORS = ("tcmalloc_minimal", "tcmalloc")
Ask = Callable[[Request, Condition], Awaitable[Sample]]


@dataclass(frozen=True)
class Settings:
    """What holds for every contestant."""

    model: Path
    new_tokens: int
    ends: bool  # whether the model ends its answers itself
    timeout: float  # seconds for one request
    batch: int  # the most images in one batch of the `generate` loop
    cores: Sequence[int]  # of contestants and callers alike
    vllm_python: Path
    environment: Mapping[str, str] = field(default_factory=dict)  # beside this process's


@dataclass(frozen=True)
class Contestant:
    """A running contestant."""

    roots: Sequence[int]  # ids of its processes, without their children
    start_seconds: float
    ask: Ask


@asynccontextmanager
async def running(name: str, settings: Settings) -> AsyncIterator[Contestant]:
    """Start a contestant and stop it again.

    Raises:
        RuntimeError: it did not start; the message has the end of its log.
    """
    if name == GENERATE:
        async with generate_contestant(settings) as contestant:
            yield contestant
    elif name == VLLM:
        async with _vllm(settings) as contestant:
            yield contestant
    else:
        async with _visionsplit(name.removeprefix("visionsplit-"), settings) as contestant:
            yield contestant


@asynccontextmanager
async def _vllm(settings: Settings) -> AsyncIterator[Contestant]:
    # visionsplit's service with vLLM does the same without being asked.
    prefix = settings.vllm_python.parent.parent
    environment = with_openmp({**settings.environment, **vllm_environment(settings.cores)}, prefix)
    server = VllmServer.of(settings.model, settings.vllm_python, environment, start_seconds=_START_SECONDS)
    async with _started([server]) as (roots, seconds), openai_client(server.address) as client:

        async def ask(request: Request, _: Condition) -> Sample:
            answer = ask_openai(client, request, new_tokens=settings.new_tokens, ends=settings.ends)
            return await _in_time(answer, settings.timeout)

        yield Contestant(roots, seconds, ask)


@asynccontextmanager
async def _visionsplit(engine: str, settings: Settings) -> AsyncIterator[Contestant]:
    """Both services in their separate processes, with default settings but for the cache of images that come again."""
    if engine not in ENGINES:
        raise ValueError(f"{engine!r} is not an engine; {', '.join(ENGINES)} are")
    encoder = f"127.0.0.1:{free_port()}"
    llm = llm_service(engine, settings.model, settings.vllm_python, settings.environment)
    services = [
        llm,
        Service(
            "encoder_service",
            ["--model", str(settings.model), "--llm", llm.address, "--cache-bytes", "0"],
            encoder,
            environment=settings.environment,
            start_seconds=_START_SECONDS,
        ),
    ]
    async with (
        _started(services) as (roots, seconds),
        AsyncClient(encoder, retries=Retries(attempts=1), timeout=settings.timeout) as client,
    ):

        async def ask(request: Request, condition: Condition) -> Sample:
            return await ask_visionsplit(client, request, condition, settings.new_tokens)

        yield Contestant(roots, seconds, ask)


def llm_service(engine: str, model: Path, vllm_python: Path, environment: Mapping[str, str]) -> Service:
    """An LLM service with an engine and default settings, not yet started."""
    python, options = (str(vllm_python), ["--engine", engine]) if engine == VLLM else (sys.executable, [])
    return Service(
        "llm_service",
        ["--model", str(model), *options],
        f"127.0.0.1:{free_port()}",
        python=python,
        environment=environment,
        start_seconds=_START_SECONDS,
    )


def service_environment() -> dict[str, str]:
    """Variables of every contestant: no network, and a fast memory allocator where the machine has one."""
    allocator = find_allocator()
    return {"HF_HUB_OFFLINE": "1", **({} if allocator is None else {"LD_PRELOAD": allocator})}


def find_allocator() -> str | None:
    return next(filter(None, map(ctypes.util.find_library, _ALLOCATORS)), None)


async def ask_visionsplit(client: AsyncClient, request: Request, condition: Condition, new_tokens: int) -> Sample:
    """One streamed answer."""
    whole = condition.method == UNCOMPRESSED
    compression = Compression(UNCOMPRESSED) if whole else Compression(condition.method, condition.ratio)
    sampling = Sampling(max_new_tokens=new_tokens, temperature=0.0)
    started, tokens = time.monotonic(), list[float]()
    try:
        async with client.stream(request.image, request.prompt, compression=compression, sampling=sampling) as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    tokens += [time.monotonic() - started] * len(event.token_ids)
                elif isinstance(event, Finished):
                    generation = event.generation
    except VisionSplitError as error:
        return Sample(tuple(tokens), time.monotonic() - started, error=type(error).__name__)
    return Sample(
        tokens=tuple(tokens),
        seconds=time.monotonic() - started,
        text=generation.text,
        ids=generation.token_ids,
        prompt_tokens=generation.usage.prompt_tokens,
        wire_bytes=generation.usage.wire_bytes,
    )


@asynccontextmanager
async def generate_contestant(settings: Settings) -> AsyncIterator[Contestant]:
    """The `generate` loop."""
    async with GenerateLoop.started(
        settings.model, settings.environment, new_tokens=settings.new_tokens, batch=settings.batch
    ) as loop:

        async def ask(request: Request, _: Condition) -> Sample:
            return await _in_time(loop.ask(request), settings.timeout)

        yield Contestant([loop.pid], loop.start_seconds, ask)


@asynccontextmanager
async def _started(services: Sequence[Service]) -> AsyncIterator[tuple[list[int], float]]:
    """Start services; their process ids and the seconds until all serve. Stop them in the end."""
    started = time.monotonic()
    try:
        for service in services:
            service.start()
        for service in services:
            await asyncio.to_thread(service.wait_until_serving)
        yield [service.process.pid for service in services if service.process], time.monotonic() - started
    finally:
        for service in reversed(services):
            if service.process is not None and service.process.poll() is None:
                await asyncio.to_thread(service.stop)
            service.log.unlink(missing_ok=True)


async def _in_time(answer: Awaitable[Sample], seconds: float) -> Sample:
    """The answer, or the sample of one that took too long; visionsplit's client has deadlines itself."""
    try:
        return await asyncio.wait_for(answer, seconds)
    except TimeoutError:
        return Sample(seconds=seconds, error="TimeoutError")


def vllm_environment(cores: Sequence[int]) -> dict[str, str]:
    """vLLM at its best on a CPU: every core computes (it reserves one otherwise), and the KV cache has room for all."""
    return {
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_CPU_KVCACHE_SPACE": "4",  # GiB: more than 64 uncompressed prompts of the proportioned model
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
    }
