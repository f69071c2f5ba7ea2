"""The engine's promises, tested from outside: sampling, cancellation, failures, and never another image's answer."""

import asyncio
import json
import shutil
import threading
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from visionsplit.options.sampling import ResolvedSampling
from visionsplit.v1 import generation_pb2, vision_tokens_pb2

from llm_service.config import EngineConfig
from llm_service.job import Job
from tests.integration.llm.engines import RESTART_SECONDS, engine_of, fail_next_step, holds_nothing, settles
from tests.integration.llm.support import Caller, Services, Whole, collect, keep, picture, running, together

pytestmark = pytest.mark.asyncio(loop_scope="session")
ASK = "USER: <image>\nWhat? ASSISTANT:"


async def test_a_seed_repeats_alone_and_in_a_crowd(shared_caller: Caller, llama: Whole):
    tokens = llama.tokens(picture(112, 90))
    sampling = {"temperature": 1.3, "top_p": 0.95, "top_k": 50, "max_new_tokens": 24}
    alone = [await shared_caller.generate(ASK, [tokens], seed=seed, **sampling) for seed in (1, 2, 2**64 - 1)]
    assert len({tuple(answer.token_ids) for answer in alone}) == 3
    greedy = await shared_caller.generate(ASK, [tokens], max_new_tokens=24)
    crowd = await together(
        *(shared_caller.generate(ASK, [tokens], seed=seed, **sampling) for seed in (1, 2, 2**64 - 1)),
        *(shared_caller.generate(ASK, [tokens], max_new_tokens=24) for _ in range(3)),
        *(shared_caller.generate(f"Hello {i}", seed=i, temperature=2.0, max_new_tokens=30) for i in range(6)),
    )
    assert [answer.token_ids for answer in crowd[:3]] == [answer.token_ids for answer in alone]
    assert all(answer.token_ids == greedy.token_ids for answer in crowd[3:6])


async def test_without_a_seed_answers_differ(shared_caller: Caller):
    answers = await together(*(shared_caller.generate("Hi", temperature=1.5, max_new_tokens=24) for _ in range(4)))
    assert len({tuple(answer.token_ids) for answer in answers}) == 4


async def test_top_k_one_and_the_smallest_temperature_are_greedy(shared_caller: Caller):
    greedy = await shared_caller.generate("Hi", max_new_tokens=16)
    for sampling in ({"temperature": 5.0, "top_k": 1}, {"temperature": 1e-30}, {"temperature": 1.0, "top_p": 1e-9}):
        assert (await shared_caller.generate("Hi", max_new_tokens=16, **sampling)).token_ids == greedy.token_ids


async def test_a_stop_string_ends_the_text_before_it(shared_caller: Caller):
    whole = await shared_caller.generate("Tell me", temperature=1.0, seed=5, max_new_tokens=60)
    stop = whole.text[20:24]
    answer = await shared_caller.generate("Tell me", temperature=1.0, seed=5, max_new_tokens=60, stop=["never", stop])
    assert answer.text == whole.text[: whole.text.index(stop)]
    assert answer.summary.finish_reason == generation_pb2.FINISH_REASON_STOP
    assert len(answer.token_ids) < len(whole.token_ids)
    assert whole.token_ids[: len(answer.token_ids)] == answer.token_ids


async def test_the_end_id_is_sent_but_no_text(llama: Whole, tmp_path: Path):
    """One of a few generated tokens is made the checkpoint's end of sequence."""
    expected = llama.generate("Hi there", [], max_new_tokens=12)
    end = next(token for token in expected[3:] if token not in expected[:3])
    model = shutil.copytree(llama.path, tmp_path / "model")
    settings = model / "generation_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "eos_token_id": end}))
    async with running(llama, model=str(model)) as (_, caller):
        answer = await caller.generate("Hi there", max_new_tokens=12)
        assert answer.token_ids == expected[: expected.index(end) + 1]
        assert answer.summary.finish_reason == generation_pb2.FINISH_REASON_STOP


async def test_same_features_in_another_layout_is_another_image(shared_caller: Caller, llama: Whole):
    tokens = llama.tokens(picture(112, 70, 3))
    kept = keep(tokens, np.arange(1, tokens.num_tokens, 2))
    spatial = await shared_caller.generate(ASK, [kept], max_new_tokens=60)
    reference = await shared_caller.generate(ASK, [kept], max_new_tokens=60, layout=vision_tokens_pb2.LAYOUT_REFERENCE)
    assert spatial.summary.usage.newline_tokens == kept.grid.valid.height
    assert reference.summary.usage.newline_tokens == kept.grid.canvas_height
    assert kept.grid.valid.height < kept.grid.canvas_height
    assert spatial.token_ids != reference.token_ids
    assert (await shared_caller.generate(ASK, [kept], max_new_tokens=60)).token_ids == spatial.token_ids


@pytest.mark.parametrize("after", [0, 1, 5])
async def test_a_cancelled_request_stops(services: Services, llama: Whole, after: int):
    server, caller = await services.get(llama)
    tokens = llama.tokens(picture(112, 90))
    call = caller.call(caller.upload(ASK, [tokens], max_new_tokens=900))
    for _ in range(after):
        await call.read()
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call.code()
    await settles(lambda: holds_nothing(server))
    expected = llama.generate(ASK, [picture(112, 90)], max_new_tokens=6)
    assert (await caller.generate(ASK, [tokens], max_new_tokens=6)).token_ids == expected


async def test_a_deadline_ends_the_call(services: Services, llama: Whole):
    server, caller = await services.get(llama)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await collect(caller.call(caller.upload("Hi", max_new_tokens=1000), timeout=0.15))
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await settles(lambda: holds_nothing(server))


async def test_a_failing_step_fails_what_runs_and_nothing_after(services: Services, llama: Whole):
    server, caller = await services.get(llama)
    tokens = llama.tokens(picture(112, 90))
    runners = [caller.call(caller.upload(ASK, [tokens], max_new_tokens=900)) for _ in range(3)]
    for call in runners:
        await call.read()
    fail_next_step(engine_of(server))
    for call in runners:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await collect(call)
        assert failure.value.code() is grpc.StatusCode.INTERNAL
        assert failure.value.details() == "a decoding step failed; the service's log has the details"
    expected = llama.generate(ASK, [picture(112, 90)], max_new_tokens=6)
    async with asyncio.timeout(RESTART_SECONDS):
        assert (await caller.generate(ASK, [tokens], max_new_tokens=6)).token_ids == expected
    await settles(lambda: holds_nothing(server))


async def test_an_engine_that_cannot_come_back_is_unavailable(llama: Whole, monkeypatch: pytest.MonkeyPatch):
    async with running(llama) as (server, caller):
        engine = engine_of(server)

        def broken():
            raise MemoryError("no memory")

        monkeypatch.setattr(engine._supervisor, "_start_core", broken)
        await caller.generate("Hi", max_new_tokens=1)
        fail_next_step(engine)
        assert (await caller.status_of(caller.upload("Hi", max_new_tokens=900)))[0] is grpc.StatusCode.INTERNAL
        await settles(lambda: not engine.healthy, RESTART_SECONDS)
        assert (await caller.status_of(caller.upload("Hi", max_new_tokens=4)))[0] is grpc.StatusCode.UNAVAILABLE


async def test_a_full_queue_refuses_and_a_small_cache_only_delays(services: Services, llama: Whole):
    """Requests wait for the slab's rows; those beyond the queue are refused; an evicted answer stays the same."""
    pictures = [picture(112, 90, index) for index in range(6)]
    uploads = [llama.tokens(image) for image in pictures]
    expected = [llama.generate(ASK, [image], max_new_tokens=40) for image in pictures]
    engine = EngineConfig(slab_tokens=100, kv_tokens=256, max_waiting=len(uploads))
    _, caller = await services.get(llama, engine)
    calls = [caller.call(caller.upload(ASK, [tokens], max_new_tokens=40)) for tokens in uploads]
    first = await together(*(collect(call) for call in calls))
    assert [answer.token_ids for answer in first] == expected
    crowd = [caller.status_or_answer(ASK, [tokens], max_new_tokens=40) for tokens in uploads * 3]
    outcomes = await together(*crowd)
    refused = [outcome for outcome in outcomes if outcome is grpc.StatusCode.RESOURCE_EXHAUSTED]
    answered = [(index, outcome) for index, outcome in enumerate(outcomes) if outcome not in refused]
    assert refused
    assert all(outcome.token_ids == expected[index % 6] for index, outcome in answered)


async def test_requests_beyond_the_places_and_the_queue_are_refused(services: Services, llama: Whole):
    _, caller = await services.get(llama, EngineConfig(max_running=1, max_waiting=2))
    outcomes = await together(*(caller.status_or_answer("Hi", max_new_tokens=60) for _ in range(12)))
    refused = [outcome for outcome in outcomes if outcome is grpc.StatusCode.RESOURCE_EXHAUSTED]
    answers = [outcome.token_ids for outcome in outcomes if outcome not in refused]
    assert len(refused) >= 12 - 5  # two have places, two wait, one may have come free meanwhile
    assert answers
    expected = llama.generate("Hi", [], max_new_tokens=60)
    assert all(answer == expected for answer in answers)


async def test_evicted_requests_answer_the_same(services: Services, llama: Whole):
    prompts = [f"Prompt number {index} of some length" for index in range(8)]
    expected = [llama.generate(prompt, [], max_new_tokens=90) for prompt in prompts]
    _, caller = await services.get(llama, EngineConfig(kv_tokens=320))
    answers = await together(*(caller.generate(prompt, max_new_tokens=90) for prompt in prompts))
    assert [answer.token_ids for answer in answers] == expected
    seeded = {"temperature": 1.0, "repetition_penalty": 1.3, "max_new_tokens": 90}
    alone = [await caller.generate(prompt, seed=7, **seeded) for prompt in prompts]
    crowd = await together(*(caller.generate(prompt, seed=7, **seeded) for prompt in prompts))
    assert [answer.token_ids for answer in crowd] == [answer.token_ids for answer in alone]


async def test_a_caller_that_does_not_read_holds_no_place_once_decoded(services: Services, llama: Whole):
    """Two requests have places; both are decoded to their end, and their callers read one token each."""
    server, caller = await services.get(llama, EngineConfig(max_running=1))
    options = ResolvedSampling(max_new_tokens=60, repetition_penalty=1.2)
    jobs = [Job(f"{number}", (2, 300 + number), (), "spatial", options) for number in range(2)]
    streams = [server._backend.generate(job) for job in jobs]
    for stream in streams:
        await anext(stream)
    expected = llama.generate("Hi", [], max_new_tokens=6)
    async with asyncio.timeout(20):
        assert (await caller.generate("Hi", max_new_tokens=6)).token_ids == expected
        for stream in streams:
            assert sum([len(event.token_ids) async for event in stream]) == 59
        assert (await caller.generate("Hi", max_new_tokens=6)).token_ids == expected


async def test_stopping_leaves_no_thread(llama: Whole):
    before = {thread for thread in threading.enumerate() if not thread.daemon}
    async with running(llama) as (_, caller):
        await caller.generate("Hi", max_new_tokens=2)
    left = {thread for thread in threading.enumerate() if not thread.daemon} - before
    assert not [thread for thread in left if "asyncio" not in thread.name and "ThreadPool" not in thread.name]
