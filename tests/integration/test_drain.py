"""SIGTERM to the processes that users start, while an answer is being sent. The other half runs in this process."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from visionsplit_client import AsyncClient, Prompt, Retries, Sampling, UnavailableError

from benchmarks.load.system import Service, free_port
from encoder_service.config import EncoderConfig
from encoder_service.server import EncoderServer
from llm_service.config import LlmConfig
from llm_service.server import LlmServer
from tests.noise import noise_image

PROMPT = Prompt.raw("USER: <image>\nWhat? ASSISTANT:")
IMAGE = noise_image(112, 112)
LONG = Sampling(max_new_tokens=500)
SHORT = Sampling(max_new_tokens=4)
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[Service]:
    service.start()
    try:
        await asyncio.to_thread(service.wait_until_serving)
        yield service
    finally:
        if service.process is not None and service.process.poll() is None:
            await asyncio.to_thread(service.stop)


@asynccontextmanager
async def encoder_process(model: str, grace: str) -> AsyncIterator[tuple[Service, str]]:
    """An encoder as a process, and the encoder's address, which is its own."""
    llm = LlmServer(LlmConfig(model=model, listen="127.0.0.1:0", device="cpu"))
    arguments = ["--model", model, "--llm", f"127.0.0.1:{await llm.start()}", "--grace", grace]
    try:
        async with running(Service("encoder_service", arguments, f"127.0.0.1:{free_port()}")) as service:
            yield service, service.address
    finally:
        await llm.stop(None)


@asynccontextmanager
async def llm_process(model: str, grace: str, *arguments: str) -> AsyncIterator[tuple[Service, str]]:
    """An LLM service as a process, and the address of an encoder before it."""
    llm = Service("llm_service", ["--model", model, "--grace", grace, *arguments], f"127.0.0.1:{free_port()}")
    async with running(llm):
        encoder = EncoderServer(EncoderConfig(model=model, listen="127.0.0.1:0", llm=(llm.address,), device="cpu"))
        try:
            yield llm, f"127.0.0.1:{await encoder.start()}"
        finally:
            await encoder.stop(None)


PROCESSES = pytest.mark.parametrize("process", [encoder_process, llm_process])


@asynccontextmanager
async def told_to_end(service: Service) -> AsyncIterator[None]:
    """Sends SIGTERM and waits until health says so; afterwards for the end of the process, whose status must be 0."""
    assert service.process is not None
    async with grpc.aio.insecure_channel(service.address) as channel:
        name = "visionsplit.v1." + ("EncoderService" if service.module == "encoder_service" else "LlmService")
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=name))
        await watch.read()
        other = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=name))
        await other.read()
        other.cancel()  # must not make the first one deaf
        await asyncio.sleep(0.1)  # the service learns of it
        service.process.send_signal(signal.SIGTERM)
        assert (await watch.read()).status == NOT_SERVING
        yield
    assert await asyncio.to_thread(service.process.wait, 60) == 0


async def ends_whole(service: Service, encoder: str) -> None:
    """The answer on its way arrives as it does without a signal; no other call is let in."""
    async with AsyncClient(encoder, retries=Retries(attempts=1), timeout=60) as client:
        whole = (await client.generate(IMAGE, PROMPT, sampling=LONG)).token_ids
        async with client.stream(IMAGE, PROMPT, sampling=LONG) as stream:
            await anext(stream)
            async with told_to_end(service):
                with pytest.raises(UnavailableError):
                    await client.generate(IMAGE, PROMPT, sampling=SHORT)
                assert service.process is not None
                assert service.process.poll() is None
                assert (await stream.result()).generation.token_ids == whole


@PROCESSES
async def test_a_running_answer_ends_whole_and_new_calls_are_refused(
    random_checkpoints: dict[str, Path], process
) -> None:
    async with process(str(random_checkpoints["llama"]), "60") as (service, encoder):
        await ends_whole(service, encoder)


@PROCESSES
async def test_past_the_grace_the_rest_is_cancelled_with_a_status(random_checkpoints: dict[str, Path], process) -> None:
    async with (
        process(str(random_checkpoints["llama"]), "0.2") as (service, encoder),
        AsyncClient(encoder, retries=Retries(attempts=1), timeout=60) as client,
        client.stream(IMAGE, PROMPT, sampling=LONG) as stream,
    ):
        await anext(stream)
        async with told_to_end(service):
            with pytest.raises(UnavailableError):
                await stream.result()
