"""Restarting a service in the middle of traffic loses only the calls in flight, each with a status."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from visionsplit.errors import CancelledError, UnavailableError, VisionSplitError
from visionsplit_client import AsyncClient, Generation, Prompt, Sampling

from encoder_service.config import EncoderConfig
from encoder_service.server import EncoderServer
from llm_service.config import LlmConfig
from llm_service.server import LlmServer
from tests.noise import noise_image

PROMPT = Prompt.raw("USER: <image>\nWhat? ASSISTANT:")
IMAGE = noise_image(112, 112)


async def started(server: EncoderServer | LlmServer) -> str:
    return f"127.0.0.1:{await server.start()}"


async def traffic(client: AsyncClient, stop: asyncio.Event) -> list[Generation | VisionSplitError]:
    """One caller that asks again and again; every call ends with an answer or an error."""
    outcomes: list[Generation | VisionSplitError] = []
    while not stop.is_set():
        try:
            outcomes.append(await client.generate(IMAGE, PROMPT, sampling=Sampling(max_new_tokens=40)))
        except VisionSplitError as error:
            outcomes.append(error)
        await asyncio.sleep(0.01)
    return outcomes


@pytest.mark.parametrize("which", ["encoder", "llm"])
@pytest.mark.parametrize("grace", [0.0, 10.0])
async def test_restart_under_traffic(random_checkpoints: dict[str, Path], which: str, grace: float) -> None:
    model = str(random_checkpoints["llama"])
    llm_config = LlmConfig(model=model, listen="127.0.0.1:0", device="cpu")
    llm = LlmServer(llm_config)
    llm_config = replace(llm_config, listen=await started(llm))
    encoder_config = EncoderConfig(model=model, listen="127.0.0.1:0", llm=(llm_config.listen,), device="cpu")
    encoder = EncoderServer(encoder_config)
    encoder_config = replace(encoder_config, listen=await started(encoder))
    try:
        async with AsyncClient(encoder_config.listen) as client:
            expected = (await client.generate(IMAGE, PROMPT, sampling=Sampling(max_new_tokens=40))).token_ids
            stop = asyncio.Event()
            callers = [asyncio.create_task(traffic(client, stop)) for _ in range(3)]
            await asyncio.sleep(0.5)
            if which == "encoder":
                await encoder.stop(grace)
                encoder = EncoderServer(encoder_config)
                await encoder.start()
            else:
                await llm.stop(grace)
                llm = LlmServer(llm_config)
                await llm.start()
            await asyncio.sleep(2.5)  # connections come back within their back-off
            stop.set()
            async with asyncio.timeout(30):
                outcomes = [outcome for caller in callers for outcome in await caller]
            after = await client.generate(IMAGE, PROMPT, sampling=Sampling(max_new_tokens=40))
    finally:
        await encoder.stop(5)
        await llm.stop(5)
    assert after.token_ids == expected
    answers = [outcome for outcome in outcomes if isinstance(outcome, Generation)]
    errors = [outcome for outcome in outcomes if isinstance(outcome, VisionSplitError)]
    assert {answer.token_ids for answer in answers} == {expected}
    assert all(isinstance(error, UnavailableError | CancelledError) for error in errors), errors
    if grace:
        assert not errors, errors  # a drained service loses nothing: new calls wait for its successor


async def test_a_lost_llm_service_is_reported_and_found_again(random_checkpoints: dict[str, Path]) -> None:
    model = str(random_checkpoints["llama"])
    llm = LlmServer(LlmConfig(model=model, listen="127.0.0.1:0", device="cpu"))
    llm_address = await started(llm)
    await llm.stop(0)
    encoder = EncoderServer(EncoderConfig(model=model, listen="127.0.0.1:0", llm=(llm_address,), device="cpu"))
    address = await started(encoder)
    try:
        async with AsyncClient(address, timeout=20) as client:
            with pytest.raises(UnavailableError, match="LLM service"):
                await client.generate(IMAGE, PROMPT)
            assert (await client.encode(IMAGE)).tokens.num_tokens  # encoding needs no LLM service
            llm = LlmServer(LlmConfig(model=model, listen=llm_address, device="cpu"))
            await llm.start()
            assert (await client.generate(IMAGE, PROMPT, sampling=Sampling(max_new_tokens=4))).token_ids
    finally:
        await encoder.stop(5)
        await llm.stop(5)
