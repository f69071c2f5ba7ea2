"""More requests than an engine runs at once: callers take turns, and cancelled requests take nothing."""

import asyncio

import grpc
import psutil
import pytest
from visionsplit.errors import OverloadedError
from visionsplit.serving.caller import CALLER_KEY
from visionsplit.wire.grpc_status import error_from_rpc

from llm_service.config import EngineConfig, Limits
from llm_service.engines.base import EngineRequest
from llm_service.engines.token_buffer import TokenBuffer
from llm_service.gateway import service
from llm_service.job import TokenEvent
from tests.integration.llm.engines import engine_of, held_steps, holds_nothing, settles
from tests.integration.llm.support import Answer, Caller, Services, Whole, collect, picture, running

pytestmark = pytest.mark.asyncio(loop_scope="session")
ASK = "USER: <image>\nWhat? ASSISTANT:"
LONG = 300


def asked(caller: Caller, name: str, prompt="Hi", images=(), **sampling):
    return caller.call(caller.upload(prompt, images, **sampling), metadata=((CALLER_KEY, name),))


async def noted(call, name, order):
    await collect(call)
    order.append(name)


async def test_a_caller_with_one_request_is_not_behind_one_with_many(services: Services, llama: Whole):
    server, caller = await services.get(llama, EngineConfig(max_running=1))
    order: list[str] = []
    crowd = [asyncio.create_task(noted(asked(caller, "heavy", max_new_tokens=40), "heavy", order)) for _ in range(12)]
    await settles(lambda: server._admission.waiting + engine_of(server)._admission._waiting >= 8)
    await noted(asked(caller, "light", max_new_tokens=4), "light", order)
    await asyncio.gather(*crowd)
    assert order.index("light") <= 5  # two run, two are about to, and the light one's turn is next


async def test_long_answers_of_one_caller_leave_room_in_the_engine(services: Services, llama: Whole):
    """However many it asks for, and however long they take, another caller's request joins the next step."""
    server, caller = await services.get(llama, EngineConfig(max_running=8))
    order: list[str] = []
    crowd = [asyncio.create_task(noted(asked(caller, "heavy", max_new_tokens=LONG), "heavy", order)) for _ in range(24)]
    await settles(lambda: server._admission.waiting == 24 - 7 - 8)  # seven run, eight are next
    for _ in range(2):
        await noted(asked(caller, "light", max_new_tokens=2), "light", order)
    assert order == ["light"] * 2
    for task in crowd:
        task.cancel()
    await asyncio.gather(*crowd, return_exceptions=True)


async def test_text_passes_an_image_that_waits_for_rows(services: Services, llama: Whole):
    tokens = [llama.tokens(picture(112, 90, seed)) for seed in range(3)]
    server, caller = await services.get(llama, EngineConfig(slab_tokens=120))
    order: list[str] = []
    tasks = [
        asyncio.create_task(noted(asked(caller, "a", ASK, [one], max_new_tokens=LONG), "image", order))
        for one in tokens
    ]
    await settles(lambda: engine_of(server)._admission._waiting == 2)
    await noted(asked(caller, "a", max_new_tokens=2), "text", order)
    assert order == ["text"]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("how", ["deadline", "cancel"])
async def test_a_request_that_ends_while_it_waits_is_never_prefilled(
    services: Services, llama: Whole, how: str, monkeypatch: pytest.MonkeyPatch
):
    server, caller = await services.get(llama, EngineConfig(max_running=1))
    engine = engine_of(server)
    submitted: list[str] = []
    submit = engine._submit

    def watched(*arguments):
        submitted.extend(one.request_id for one in arguments if isinstance(one, EngineRequest))
        return submit(*arguments)

    monkeypatch.setattr(engine, "_submit", watched)
    with held_steps(engine):
        runners = [asyncio.create_task(collect(asked(caller, "a", max_new_tokens=2))) for _ in range(2)]
        await settles(lambda: len(submitted) == 2)
        options = {"timeout": 0.5} if how == "deadline" else {}
        upload = caller.upload("Hello", max_new_tokens=5)
        waiting = [caller.call(upload, metadata=(("x-request-id", "late"),), **options) for _ in range(4)]
        ends = [asyncio.create_task(collect(call)) for call in waiting]
        if how == "cancel":
            await settles(lambda: server._admission.waiting + engine._admission._waiting == 4)
            for call in waiting:
                call.cancel()
        outcomes = await asyncio.gather(*ends, return_exceptions=True)
        assert not any(isinstance(outcome, Answer) for outcome in outcomes)
        await settles(lambda: engine._admission._waiting == 0)
    assert all(answer.token_ids for answer in await asyncio.gather(*runners))
    assert len(submitted) == 2


async def test_a_full_service_says_when_to_come_back_and_reads_no_upload(llama: Whole):
    limits = Limits(max_calls=2, caller_share=1.0)
    async with running(llama, limits=limits) as (_, caller):
        runners = [asked(caller, "a", max_new_tokens=LONG) for _ in range(2)]
        for call in runners:
            await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await collect(asked(caller, "b", ASK, [llama.tokens(picture(112, 90))], max_new_tokens=2))
        error = error_from_rpc(failure.value)
        assert isinstance(error, OverloadedError)
        assert error.retry_after_seconds > 0
        for call in runners:
            call.cancel()


async def test_the_bytes_of_all_uploads_are_bounded(llama: Whole):
    tokens = llama.tokens(picture(112, 90))
    one = tokens.num_tokens * llama.feature_size * 4
    async with running(llama, limits=Limits(max_upload_bytes=int(1.5 * one), caller_share=1.0)) as (_, caller):
        running_call = asked(caller, "a", ASK, [tokens], max_new_tokens=LONG)
        await running_call.read()
        status, details, name = await caller.status_of(caller.upload(ASK, [tokens], max_new_tokens=2))
        assert (status, name) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OverloadedError")
        assert details.startswith(f"other calls hold {one} bytes of vision tokens; this request's {one} and theirs")
        status, details, _ = await caller.status_of(caller.upload(ASK * 2, [tokens, tokens], max_new_tokens=2))
        assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
        running_call.cancel()


async def test_unread_events_become_few_and_lose_no_token():
    buffer = TokenBuffer()
    for number in range(5000):
        buffer.put(TokenEvent((number,), number == 4999, 0.5))
    events = [event async for event in buffer.events()]
    assert events == [TokenEvent(tuple(range(5000)), True, 0.5)]
    buffer.put(OverloadedError("full"))
    with pytest.raises(OverloadedError):
        await buffer.get()


async def test_tokens_of_a_pause_go_out_together_and_the_last_ones_at_once():
    buffer = TokenBuffer()
    events = buffer.events(pause_seconds=3600)
    buffer.put(TokenEvent((0,), False, 0.5))
    assert (await anext(events)).token_ids == (0,)
    following = asyncio.ensure_future(anext(events))
    for number in (1, 2):
        buffer.put(TokenEvent((number,), False, 0.5))
        await asyncio.sleep(0)
    assert not following.done()
    buffer.put(TokenEvent((3,), True, 0.5))
    assert (await following).token_ids == (1, 2, 3)
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_many_calls_get_their_tokens_in_groups(llama: Whole, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(service, "_EVENTS_PER_SECOND", 0.001)  # as if there were a million calls
    async with running(llama) as (_, caller):
        answer = await caller.generate(ASK, [llama.tokens(picture(100, 100))], max_new_tokens=20)
    assert [len(delta.token_ids) for delta in answer.deltas] == [1, len(answer.token_ids) - 1]


async def test_callers_that_do_not_read_hold_nobody_back_and_little_memory(llama: Whole):
    async with running(llama, limits=Limits(max_calls=40, caller_share=0.75)) as (server, caller):
        await collect(asked(caller, "light", max_new_tokens=20))
        before = psutil.Process().memory_info().rss
        unread = [asked(caller, "slow", max_new_tokens=150) for _ in range(30)]
        await settles(lambda: server._admission.places.active == 30)
        assert (await collect(asked(caller, "light", max_new_tokens=20))).token_ids
        await settles(lambda: holds_nothing(server), 100)  # decoded, though no caller reads
        grown = psutil.Process().memory_info().rss - before
        print(f"{grown / 30 / 2**10:.0f} KiB for each unread answer of 150 tokens, both ends together")
        assert grown < 30 * 2**20
        assert (await collect(asked(caller, "light", max_new_tokens=20))).token_ids
        for call in unread:
            call.cancel()
