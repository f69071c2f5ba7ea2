"""Limits on the memory and the time that all uploads together may take."""

import asyncio

import grpc
import pytest
from visionsplit.errors import OverloadedError
from visionsplit.serving.caller import CALLER_KEY
from visionsplit.wire.grpc_status import error_from_rpc
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


async def opened(caller, number, *, name="", requests=()):
    """Calls that send some messages and then nothing."""
    calls = [caller.stub.Generate(metadata=((CALLER_KEY, name),) if name else ()) for _ in range(number)]
    for call in calls:
        for request in requests:
            await call.write(request)
    return calls


async def failure_of(call):
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await collect(call)
    return failure.value


def cancel(calls):
    for call in calls:
        call.cancel()


async def test_silent_calls_cost_others_nothing(llama: Whole, tokens: VisionTokens):
    """By default, on a service that is idle: calls with a deadline beside these, and after some of their silence."""
    async with running(llama) as (server, caller):
        upload = caller.upload(ASK, [tokens], max_new_tokens=2)
        expected = await collect(caller.call(upload))
        # gRPC announces all of a burst before it delivers the first header, and every one is heard.
        burst = [caller.call(caller.upload("hi", max_new_tokens=1)) for _ in range(128)]
        assert all(answer.token_ids for answer in await asyncio.gather(*map(collect, burst)))
        silent = await opened(caller, 160, name="a") + await opened(caller, 160, name="b")
        await asyncio.sleep(1.2)  # longer than the header of a call that is opened with others takes
        stalled = await opened(caller, 64, name="c", requests=upload[:1])
        stalled += await opened(caller, 64, name="d", requests=upload[:-1])
        for _ in range(100):
            if server._metrics.uploads._value.get() == 128:
                break
            await asyncio.sleep(0.05)
        for name in ("a", "b", "c", "d", "honest"):
            for deadline in (2.0, 10.0):
                call = caller.call(upload, timeout=deadline, metadata=((CALLER_KEY, name),))
                assert (await collect(call)).token_ids == expected.token_ids
        # The header must come within five seconds, and many silent calls do not wait for it even so long.
        codes = {(await failure_of(call)).code() for call in silent}
        assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}
        cancel(stalled)


@pytest.mark.parametrize("sent", [1, 2, -1])
async def test_an_upload_ends_though_messages_keep_coming(llama: Whole, tokens: VisionTokens, sent: int):
    limits = Limits(upload_seconds=0.6, upload_idle_seconds=30)
    async with running(llama, limits=limits) as (_, caller):
        upload = caller.upload(ASK, [tokens], chunk_bytes=1, max_new_tokens=2)
        (call,) = await opened(caller, 1, requests=upload[:sent])
        for request in upload[sent:]:  # a token at a time
            if call.done():
                break
            await call.write(request)
            await asyncio.sleep(0.1)
        failure = await failure_of(call)
        assert failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert failure.details() == "the upload was not complete within 0.6 seconds"
        assert len((await caller.generate(ASK, [tokens], max_new_tokens=2)).token_ids) == 2


async def test_a_stalled_upload_gives_way_where_others_need_what_it_holds(llama: Whole, tokens: VisionTokens):
    one = tokens.num_tokens * llama.feature_size * 4
    limits = Limits(max_uploads=4, caller_share=0.75, max_upload_bytes=5 * one, upload_idle_seconds=0.5)
    async with running(llama, limits=limits) as (_, caller):
        upload = caller.upload(ASK, [tokens], max_new_tokens=2)
        stalled = await opened(caller, 3, name="a", requests=upload[:2])  # as many as a may have
        await asyncio.sleep(0.1)
        status = await failure_of(caller.call(upload, metadata=((CALLER_KEY, "a"),)))
        assert status.details() == "3 uploads of this caller are under way, and no more are accepted"
        assert len((await collect(caller.call(upload, metadata=((CALLER_KEY, "b"),)))).token_ids) == 2
        await asyncio.sleep(0.5)
        assert len((await collect(caller.call(upload, metadata=((CALLER_KEY, "a"),)))).token_ids) == 2
        while not any(call.done() for call in stalled):  # noqa: ASYNC110 - gRPC ends it
            await asyncio.sleep(0.01)
        # The one that was silent for longest; the order in which they were accepted decides which one that is.
        (given_up,) = [call for call in stalled if call.done()]
        stalled.remove(given_up)
        failure = await failure_of(given_up)
        assert failure.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "stood still" in failure.details()
        assert not any(call.done() for call in stalled)
        # b's request needs the room of both, though there are places.
        large = caller.upload(ASK + "<image>" * 2, [tokens] * 3, max_new_tokens=2)
        assert len((await collect(caller.call(large, metadata=((CALLER_KEY, "b"),)))).token_ids) == 2
        assert any(call.done() for call in stalled)
        cancel(stalled)


async def test_a_request_within_the_limit_is_served_and_a_larger_one_refused_for_good(
    llama: Whole, tokens: VisionTokens
):
    """Its own images must not count as another call's: what one caller may have is less than all of it."""
    one = tokens.num_tokens * llama.feature_size * 4
    async with running(llama, limits=Limits(max_upload_bytes=4 * one, caller_share=0.5)) as (_, caller):
        for images in (1, 3, 4):
            answer = await caller.generate(ASK + "<image>" * (images - 1), [tokens] * images, max_new_tokens=2)
            assert len(answer.token_ids) == 2
        error = error_from_rpc(await failure_of(caller.call(caller.upload(ASK + "<image>" * 4, [tokens] * 5))))
        assert isinstance(error, OverloadedError)
        assert error.retry_after_seconds is None
        assert str(error) == f"the request's vision tokens take {5 * one} bytes or more; at most {4 * one} are accepted"
        held = await opened(caller, 1, requests=caller.upload(ASK, [tokens])[:2])
        await asyncio.sleep(0.2)
        error = error_from_rpc(await failure_of(caller.call(caller.upload(ASK + "<image>", [tokens] * 2))))
        assert isinstance(error, OverloadedError)
        assert error.retry_after_seconds is not None
        assert str(error).startswith(f"other calls of this caller hold {one} bytes")
        cancel(held)


async def test_more_than_the_cache_or_the_slab_holds(llama: Whole, tokens: VisionTokens):
    async with running(llama, engine=EngineConfig(kv_tokens=64)) as (_, caller):
        status, details, name = await caller.status_of(caller.upload("hi", max_new_tokens=200))
        assert (status, name) == (INVALID, "PromptTooLongError")
        assert "200" in details
        assert len((await caller.generate("hi", max_new_tokens=8)).token_ids) == 8
    async with running(llama, engine=EngineConfig(slab_tokens=32)) as (_, caller):
        status, _, name = await caller.status_of(caller.upload(ASK, [tokens], max_new_tokens=2))
        assert (status, name) == (INVALID, "PromptTooLongError")
