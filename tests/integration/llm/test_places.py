"""A request's place: any mix of images finds rows, and no request holds a place that it does not need."""

import asyncio

import numpy as np
import pytest
from visionsplit.options.sampling import ResolvedSampling
from visionsplit.wire.vision_tokens import VisionTokens

from llm_service.config import EngineConfig
from llm_service.job import Job
from tests.integration.llm.support import Caller, Whole, keep, picture, running


@pytest.fixture(scope="module")
def pictures() -> list:
    return [picture(112, 112, seed) for seed in range(4)]


async def answers(caller: Caller, prompt: str, images: list[VisionTokens], expected: list[int]):
    async with asyncio.timeout(20):
        answer = await caller.generate(prompt, images, max_new_tokens=len(expected))
    assert answer.token_ids == expected


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


async def test_a_caller_that_does_not_read_holds_no_place_once_decoded(llama: Whole):
    """Two requests have places; both are decoded to their end, and their callers read one token each."""
    async with running(llama, engine=EngineConfig(max_running=1)) as (server, caller):
        backend = server._backend
        assert backend is not None
        options = ResolvedSampling(max_new_tokens=60, repetition_penalty=1.2)
        jobs = [Job(f"{number}", (2, 300 + number), (), "spatial", options) for number in range(2)]
        streams = [backend.generate(job) for job in jobs]
        for stream in streams:
            await anext(stream)
        await answers(caller, "Hi", [], llama.generate("Hi", [], max_new_tokens=6))
        for stream in streams:
            assert sum([len(event.token_ids) async for event in stream]) == 59
        await answers(caller, "Hi", [], llama.generate("Hi", [], max_new_tokens=6))
