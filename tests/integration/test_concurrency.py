"""Many callers at once get exactly what they get alone, and no caller pays for a call that was given up."""

import asyncio
from pathlib import Path

import pytest
from visionsplit_client import Compression, EncodedImage, Generation, Prompt, Sampling

from llm_service.config import EngineConfig
from tests.integration.system import System, running_system
from tests.noise import noise_image

RATIOS = [1.0, 0.5, 0.25, 0.1]
SIZES = [(112, 112), (112, 56), (56, 168), (300, 90), (97, 113), (640, 480), (40, 40), (56, 112)]
PROMPT = Prompt.raw("USER: <image>\nWhat? ASSISTANT:")


async def ask(system: System, caller: int) -> Generation:
    image = noise_image(*SIZES[caller % len(SIZES)], seed=caller)
    compression = Compression("globalcom2", RATIOS[caller % len(RATIOS)])
    return await system.client.generate(
        image, PROMPT, compression=compression, sampling=Sampling(max_new_tokens=12 + caller % 5)
    )


@pytest.mark.parametrize("text", ["llama", "qwen2"])
async def test_32_callers_get_the_answers_they_get_alone(random_checkpoints: dict[str, Path], text: str) -> None:
    async with running_system(random_checkpoints[text]) as system:
        alone = [await ask(system, caller) for caller in range(32)]
    async with running_system(random_checkpoints[text]) as system:  # without what the first one has cached
        together = await asyncio.gather(*(ask(system, caller) for caller in range(32)))
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]
    assert [answer.images[0].budgets for answer in together] == [answer.images[0].budgets for answer in alone]
    assert len({answer.token_ids for answer in alone}) > 16


async def test_a_question_never_gets_another_images_answer(random_checkpoints: dict[str, Path]) -> None:
    """More images than the LLM service has room for go through between two questions about one image."""
    engine = EngineConfig(slab_tokens=256, kv_tokens=2048)
    async with running_system(random_checkpoints["llama"], llm={"engine": engine}) as system:
        first = {caller: await ask(system, caller) for caller in range(4)}
        for caller in range(4, 44):
            await ask(system, caller)
        again = {caller: await ask(system, caller) for caller in first}
    assert {c: a.token_ids for c, a in again.items()} == {c: a.token_ids for c, a in first.items()}


async def test_a_cancelled_call_makes_room_at_once(random_checkpoints: dict[str, Path]) -> None:
    """There is room for two: calls that went on after their cancellation would keep the others out."""
    engine = EngineConfig(max_running=1, max_waiting=1)
    async with running_system(random_checkpoints["llama"], llm={"engine": engine}) as system:
        before = await ask(system, 0)
        cancelled = 0
        for caller in range(12):
            task = asyncio.create_task(
                system.client.generate(noise_image(112, 112, caller), PROMPT, sampling=Sampling(max_new_tokens=700))
            )
            await asyncio.sleep(0.03 * caller)
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            cancelled += isinstance(outcome, asyncio.CancelledError)  # some answers are short
        assert cancelled >= 6
        async with asyncio.timeout(20):
            assert (await ask(system, 0)).token_ids == before.token_ids


async def test_stored_tokens_answer_like_the_image(random_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    image = noise_image(300, 200)
    for data_type in ("float32", "bfloat16", "int8"):
        async with running_system(random_checkpoints["qwen2"]) as system:
            compression = Compression("globalcom2", 0.3)
            encoded = await system.client.encode(image, compression, data_type=data_type)
            encoded.save(tmp_path / "tokens.safetensors")
            stored = EncodedImage.load(tmp_path / "tokens.safetensors")
            question = {"sampling": Sampling(max_new_tokens=12)}
            direct = await system.client.generate(
                image, PROMPT, compression=compression, data_type=data_type, **question
            )
            from_tokens = await system.client.generate_from_tokens(stored, PROMPT, **question)
            assert from_tokens.token_ids == direct.token_ids
            assert from_tokens.usage == direct.usage
