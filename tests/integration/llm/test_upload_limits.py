"""What all uploads together may take of the service, and for how long."""

import asyncio

import grpc
import pytest
from visionsplit.wire.vision_tokens import VisionTokens

from llm_service.config import EngineConfig, Limits
from tests.integration.llm.support import Whole, collect, picture, running

ASK = "USER: <image>\nWhat? ASSISTANT:"
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def tokens(llama: Whole) -> VisionTokens:
    return llama.tokens(picture(112, 90))


async def test_bounds_of_the_service(llama: Whole, tokens: VisionTokens):
    limits = Limits(max_images=2, max_uploads=1)
    async with running(llama, limits=limits) as (_, caller):
        status, details, _ = await caller.status_of(caller.upload("<image>" * 3, [tokens] * 3))
        assert (status, "3" in details) == (INVALID, True)
        held = caller.stub.Generate()
        await held.write(caller.header("hi", max_new_tokens=2))
        await asyncio.sleep(0.2)
        status, _, name = await caller.status_of(caller.upload("hi", max_new_tokens=2))
        assert (status, name) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OverloadedError")
        held.cancel()
        # The server learns of the cancellation a moment later.
        for _ in range(100):
            if (await caller.status_or_answer("hi", max_new_tokens=2)) is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                break
            await asyncio.sleep(0.05)
        assert len((await caller.generate("hi", max_new_tokens=2)).token_ids) == 2


async def test_silent_uploads_are_given_up(llama: Whole, tokens: VisionTokens):
    """A caller that never closes its side, at every stage of the upload, takes no place for ever."""
    async with running(llama, limits=Limits(max_uploads=3, upload_idle_seconds=0.3)) as (_, caller):
        upload = caller.upload(ASK, [tokens], max_new_tokens=2)
        for sent in (0, 1, len(upload)):
            calls = [caller.stub.Generate() for _ in range(3)]
            for call in calls:
                for request in upload[:sent]:
                    await call.write(request)
            for call in calls:
                with pytest.raises(grpc.aio.AioRpcError) as failure:
                    await collect(call)
                assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                assert "0.3 seconds" in failure.value.details()
            assert len((await caller.generate(ASK, [tokens], max_new_tokens=2)).token_ids) == 2


async def test_more_than_the_cache_or_the_slab_holds(llama: Whole, tokens: VisionTokens):
    async with running(llama, engine=EngineConfig(kv_tokens=64)) as (_, caller):
        status, details, name = await caller.status_of(caller.upload("hi", max_new_tokens=200))
        assert (status, name) == (INVALID, "PromptTooLongError")
        assert "200" in details
        assert len((await caller.generate("hi", max_new_tokens=8)).token_ids) == 8
    async with running(llama, engine=EngineConfig(slab_tokens=32)) as (_, caller):
        status, _, name = await caller.status_of(caller.upload(ASK, [tokens], max_new_tokens=2))
        assert (status, name) == (INVALID, "PromptTooLongError")
