"""The engine's promises, tested from outside: sampling, cancellation, failures, and never another image's answer."""

import asyncio
import json
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from visionsplit.v1 import generation_pb2, vision_tokens_pb2

from llm_service.config import EngineConfig
from llm_service.engines.continuous.engine import ContinuousBatchingEngine
from llm_service.server import LlmServer
from tests.integration.llm.support import Caller, Whole, collect, keep, picture, running, together

ASK = "USER: <image>\nWhat? ASSISTANT:"


def engine_of(server: LlmServer) -> ContinuousBatchingEngine:
    return server._backend._replica._engine


async def settles(condition, seconds: float = 5.0):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for belongs to another thread
            await asyncio.sleep(0.01)


async def test_a_seed_repeats_alone_and_in_a_crowd(caller: Caller):
    tokens = caller.whole.tokens(picture(112, 90))
    sampling = {"temperature": 1.3, "top_p": 0.95, "top_k": 50, "max_new_tokens": 24}
    alone = [await caller.generate(ASK, [tokens], seed=seed, **sampling) for seed in (1, 2, 2**64 - 1)]
    assert len({tuple(answer.token_ids) for answer in alone}) == 3
    greedy = await caller.generate(ASK, [tokens], max_new_tokens=24)
    crowd = await together(
        *(caller.generate(ASK, [tokens], seed=seed, **sampling) for seed in (1, 2, 2**64 - 1)),
        *(caller.generate(ASK, [tokens], max_new_tokens=24) for _ in range(3)),
        *(caller.generate(f"Hello {i}", seed=i, temperature=2.0, max_new_tokens=30) for i in range(6)),
    )
    assert [answer.token_ids for answer in crowd[:3]] == [answer.token_ids for answer in alone]
    assert all(answer.token_ids == greedy.token_ids for answer in crowd[3:6])


async def test_without_a_seed_answers_differ(llama_caller: Caller):
    answers = await together(*(llama_caller.generate("Hi", temperature=1.5, max_new_tokens=24) for _ in range(4)))
    assert len({tuple(answer.token_ids) for answer in answers}) == 4


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


async def test_top_k_one_and_the_smallest_temperature_are_greedy(llama_caller: Caller):
    greedy = await llama_caller.generate("Hi", max_new_tokens=16)
    for sampling in ({"temperature": 5.0, "top_k": 1}, {"temperature": 1e-30}, {"temperature": 1.0, "top_p": 1e-9}):
        assert (await llama_caller.generate("Hi", max_new_tokens=16, **sampling)).token_ids == greedy.token_ids


async def test_a_stop_string_ends_the_text_before_it(llama_caller: Caller):
    whole = await llama_caller.generate("Tell me", temperature=1.0, seed=5, max_new_tokens=60)
    stop = whole.text[20:24]
    answer = await llama_caller.generate("Tell me", temperature=1.0, seed=5, max_new_tokens=60, stop=["never", stop])
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


async def test_same_features_in_another_layout_is_another_image(llama_caller: Caller, llama: Whole):
    tokens = llama.tokens(picture(112, 70, 3))
    kept = keep(tokens, np.arange(1, tokens.num_tokens, 2))
    spatial = await llama_caller.generate(ASK, [kept], max_new_tokens=60)
    reference = await llama_caller.generate(ASK, [kept], max_new_tokens=60, layout=vision_tokens_pb2.LAYOUT_REFERENCE)
    assert spatial.summary.usage.newline_tokens == kept.grid.valid.height
    assert reference.summary.usage.newline_tokens == kept.grid.canvas_height
    assert kept.grid.valid.height < kept.grid.canvas_height
    assert spatial.token_ids != reference.token_ids
    assert (await llama_caller.generate(ASK, [kept], max_new_tokens=60)).token_ids == spatial.token_ids


@pytest.mark.parametrize("after", [0, 1, 5])
async def test_a_cancelled_request_stops(llama: Whole, after: int):
    async with running(llama) as (server, caller):
        engine = engine_of(server)
        active = engine._running.manager.batch_processor.scheduler.active_requests
        tokens = llama.tokens(picture(112, 90))
        call = caller.call(caller.upload(ASK, [tokens], max_new_tokens=900))
        for _ in range(after):
            await call.read()
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call.code()
        await settles(lambda: not active and not engine._slab.in_use and not engine._router._sinks)
        expected = llama.generate(ASK, [picture(112, 90)], max_new_tokens=6)
        assert (await caller.generate(ASK, [tokens], max_new_tokens=6)).token_ids == expected


async def test_a_deadline_ends_the_call(llama: Whole):
    async with running(llama) as (server, caller):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await collect(caller.call(caller.upload("Hi", max_new_tokens=1000), timeout=0.15))
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await settles(lambda: not engine_of(server)._router._sinks)


async def test_a_failing_step_fails_what_runs_and_nothing_after(llama: Whole):
    async with running(llama) as (server, caller):
        layer = engine_of(server)._model.model.layers[0]
        tokens = llama.tokens(picture(112, 90))
        runners = [caller.call(caller.upload(ASK, [tokens], max_new_tokens=900)) for _ in range(3)]
        for call in runners:
            await call.read()

        def explode(*_):
            handle.remove()
            raise RuntimeError("device lost")

        handle = layer.register_forward_pre_hook(explode)
        for call in runners:
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await collect(call)
            assert failure.value.code() is grpc.StatusCode.INTERNAL
            assert "device lost" not in failure.value.details()
        expected = llama.generate(ASK, [picture(112, 90)], max_new_tokens=6)
        assert (await caller.generate(ASK, [tokens], max_new_tokens=6)).token_ids == expected
        await settles(lambda: not engine_of(server)._slab.in_use)


async def test_an_engine_that_fails_as_a_request_enters_ends_that_request(
    llama: Whole, monkeypatch: pytest.MonkeyPatch
):
    """Whenever the manager's thread ends between the request's look at the manager and its submission."""
    async with running(llama) as (server, caller):
        engine = engine_of(server)
        for method in ("_router.open", "_submit"):
            owner = engine._router if "." in method else engine
            original = getattr(owner, method.rpartition(".")[2])
            lost = engine._running

            def after_the_engine_failed(*arguments, lost=lost, owner=owner, original=original, **options):
                monkeypatch.undo()
                lost.manager.background_thread_status.request_stop(2, 0)
                lost.manager.cancel_request("")  # wakes it up
                while engine._running is lost or engine._running is None:
                    time.sleep(0.01)
                return original(*arguments, **options)

            monkeypatch.setattr(owner, method.rpartition(".")[2], after_the_engine_failed)
            async with asyncio.timeout(20):
                status = (await caller.status_of(caller.upload("Hi", max_new_tokens=4)))[0]
            assert status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
            assert (await caller.generate("Hi", max_new_tokens=4)).token_ids
            assert not engine._router._sinks


async def test_an_engine_that_cannot_come_back_is_unavailable(llama: Whole, monkeypatch: pytest.MonkeyPatch):
    async with running(llama) as (server, caller):
        engine = engine_of(server)

        def broken(*_, **__):
            raise MemoryError("no memory")

        monkeypatch.setattr(engine, "_start_manager", broken)
        engine._model.model.layers[0].register_forward_pre_hook(broken)
        assert (await caller.status_of(caller.upload("Hi", max_new_tokens=4)))[0] is grpc.StatusCode.INTERNAL
        await settles(lambda: not engine.healthy)
        assert (await caller.status_of(caller.upload("Hi", max_new_tokens=4)))[0] is grpc.StatusCode.UNAVAILABLE


async def test_a_full_queue_refuses_and_a_small_cache_only_delays(llama: Whole):
    """Requests wait for the slab's rows; those beyond the queue are refused; an evicted answer stays the same."""
    pictures = [picture(112, 90, index) for index in range(6)]
    uploads = [llama.tokens(image) for image in pictures]
    expected = [llama.generate(ASK, [image], max_new_tokens=40) for image in pictures]
    engine = EngineConfig(slab_tokens=100, kv_tokens=256, max_waiting=len(uploads))
    async with running(llama, engine=engine) as (_, caller):
        calls = [caller.call(caller.upload(ASK, [tokens], max_new_tokens=40)) for tokens in uploads]
        first = await together(*(collect(call) for call in calls))
        assert [answer.token_ids for answer in first] == expected
        crowd = [caller.status_or_answer(ASK, [tokens], max_new_tokens=40) for tokens in uploads * 3]
        outcomes = await together(*crowd)
        refused = [outcome for outcome in outcomes if outcome is grpc.StatusCode.RESOURCE_EXHAUSTED]
        answered = [(index, outcome) for index, outcome in enumerate(outcomes) if outcome not in refused]
        assert refused
        assert all(outcome.token_ids == expected[index % 6] for index, outcome in answered)


async def test_requests_beyond_the_places_and_the_queue_are_refused(llama: Whole):
    async with running(llama, engine=EngineConfig(max_running=1, max_waiting=2)) as (_, caller):
        outcomes = await together(*(caller.status_or_answer("Hi", max_new_tokens=60) for _ in range(12)))
        refused = [outcome for outcome in outcomes if outcome is grpc.StatusCode.RESOURCE_EXHAUSTED]
        answers = [outcome.token_ids for outcome in outcomes if outcome not in refused]
        assert len(refused) >= 12 - 5  # two have places, two wait, one may have come free meanwhile
        assert answers
        expected = llama.generate("Hi", [], max_new_tokens=60)
        assert all(answer == expected for answer in answers)


async def test_evicted_requests_answer_the_same(llama: Whole):
    prompts = [f"Prompt number {index} of some length" for index in range(8)]
    expected = [llama.generate(prompt, [], max_new_tokens=90) for prompt in prompts]
    async with running(llama, engine=EngineConfig(kv_tokens=320)) as (_, caller):
        answers = await together(*(caller.generate(prompt, max_new_tokens=90) for prompt in prompts))
        assert [answer.token_ids for answer in answers] == expected
        seeded = {"temperature": 1.0, "repetition_penalty": 1.3, "max_new_tokens": 90}
        alone = [await caller.generate(prompt, seed=7, **seeded) for prompt in prompts]
        crowd = await together(*(caller.generate(prompt, seed=7, **seeded) for prompt in prompts))
        assert [answer.token_ids for answer in crowd] == [answer.token_ids for answer in alone]


async def test_stopping_leaves_no_thread(llama: Whole):
    before = {thread for thread in threading.enumerate() if not thread.daemon}
    async with running(llama) as (_, caller):
        await caller.generate("Hi", max_new_tokens=2)
    left = {thread for thread in threading.enumerate() if not thread.daemon} - before
    assert not [thread for thread in left if "asyncio" not in thread.name and "ThreadPool" not in thread.name]
