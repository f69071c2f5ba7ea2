"""Continuous batching alone: its attention, its slab and ids, and its restart in the middle of a submission."""

import asyncio
import time

import grpc
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import scaled_dot_product_attention
from visionsplit.wire.vision_tokens import VisionTokens

from llm_service.config import EngineConfig
from tests.integration.llm.engines import engine_of
from tests.integration.llm.support import Caller, Whole, keep, picture, running, together

ASK = "USER: <image>\nWhat? ASSISTANT:"


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [picture(112, 112, seed) for seed in range(4)]


async def answers(caller: Caller, prompt: str, images: list[VisionTokens], expected: list[int]):
    async with asyncio.timeout(20):
        answer = await caller.generate(prompt, images, max_new_tokens=len(expected))
    assert answer.token_ids == expected


async def test_on_a_cpu_requests_meet_their_own_keys_only(llama_caller: Caller, monkeypatch: pytest.MonkeyPatch):
    """Whatever else is in the step, which the library would multiply with them and then mask."""
    met: list[tuple[int, int]] = []

    def counted(query: torch.Tensor, key: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        met.append((query.shape[2], key.shape[2]))
        return scaled_dot_product_attention(query, key, *arguments, **options)

    monkeypatch.setattr("llm_service.engines.continuous.attention.scaled_dot_product_attention", counted)
    prompts = [f"{number} " + "word " * 40 for number in range(8)]
    answers = await together(*(llama_caller.generate(prompt, max_new_tokens=20) for prompt in prompts))
    longest = max(answer.summary.usage.prompt_tokens for answer in answers) + 20
    assert max(keys for _, keys in met) <= longest
    assert any(queries == keys > 1 for queries, keys in met)  # a whole prompt
    assert any(queries == 1 < keys for queries, keys in met)  # a next token


async def test_few_ids_and_few_rows_never_mix_images_up(llama: Whole):
    """Ids run out every few images and rows are reused at once; images come again, now and later."""
    pictures = [picture(40 + 13 * index, 150 - 9 * index, index) for index in range(12)]
    uploads = [llama.tokens(image) for image in pictures]
    expected = [llama.generate(ASK, [image], max_new_tokens=8) for image in pictures]
    vocabulary = llama.model.config.text_config.vocab_size
    engine = EngineConfig(slab_tokens=250, max_virtual_id=vocabulary + 700)
    order = np.random.default_rng(0).integers(0, len(pictures), 90).tolist()
    async with running(llama, engine=engine) as (_, caller):
        for start in range(0, len(order), 6):
            asked = order[start : start + 6]
            answers = await together(*(caller.generate(ASK, [uploads[index]], max_new_tokens=8) for index in asked))
            assert [answer.token_ids for answer in answers] == [expected[index] for index in asked]


async def test_an_engine_that_fails_as_a_request_enters_ends_that_request(
    llama: Whole, monkeypatch: pytest.MonkeyPatch
):
    """Whenever the manager's thread ends between the request's look at the manager and its submission."""
    async with running(llama) as (server, caller):
        engine = engine_of(server)
        for method in ("_router.open", "_submit"):
            owner = engine._router if "." in method else engine
            original = getattr(owner, method.rpartition(".")[2])
            lost = engine._supervisor.running

            def after_the_engine_failed(*arguments, lost=lost, owner=owner, original=original, **options):
                monkeypatch.undo()
                lost.manager.background_thread_status.request_stop(2, 0)
                lost.manager.cancel_request("")  # wakes it up
                while engine._supervisor.running in (lost, None):
                    time.sleep(0.01)
                return original(*arguments, **options)

            monkeypatch.setattr(owner, method.rpartition(".")[2], after_the_engine_failed)
            async with asyncio.timeout(20):
                status = (await caller.status_of(caller.upload("Hi", max_new_tokens=4)))[0]
            assert status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
            assert (await caller.generate("Hi", max_new_tokens=4)).token_ids
            assert not engine._router._sinks


async def test_known_images_that_lie_in_the_way_of_a_new_one(llama: Whole, pictures: list):
    """Two small known images cut the ring in two; a third, with which they come again, fits only if they move."""
    whole = [llama.tokens(image) for image in pictures]
    small, filler, other, large = keep(whole[0], np.arange(2)), keep(whole[1], np.arange(52)), whole[2], whole[3]
    other = keep(other, np.arange(2))
    async with running(llama, engine=EngineConfig(slab_tokens=150)) as (_, caller):
        for image in (small, filler, other):
            await caller.generate("hi <image>", [image], max_new_tokens=2)
        async with asyncio.timeout(20):
            crowded = await caller.generate("<image><image><image>", [small, other, large], max_new_tokens=8)
            await caller.generate("text only", max_new_tokens=2)
    async with running(llama) as (_, caller):
        alone = await caller.generate("<image><image><image>", [small, other, large], max_new_tokens=8)
    assert crowded.token_ids == alone.token_ids


async def test_ids_that_run_out_between_two_images_of_a_request(llama: Whole, pictures: list):
    tokens = [llama.tokens(image) for image in pictures]
    vocabulary = llama.model.config.text_config.vocab_size
    expected = llama.generate("<image><image>", pictures[2:], max_new_tokens=8)
    engine = EngineConfig(slab_tokens=400, max_virtual_id=vocabulary + 299)
    async with running(llama, engine=engine) as (_, caller):
        for image in tokens[:2]:
            await caller.generate("hi <image>", [image], max_new_tokens=2)
        await answers(caller, "<image><image>", tokens[2:], expected)
        await answers(caller, "<image>", tokens[:1], llama.generate("<image>", pictures[:1], max_new_tokens=4))
