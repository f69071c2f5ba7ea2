"""The layerwise engine's promises: cancellation, a bounded queue and memory, separate failures, stopping."""

import asyncio
import gc
import threading
from dataclasses import replace

import pytest
from visionsplit.errors import InternalError, OverloadedError, PromptTooLongError, UnavailableError
from visionsplit.options.sampling import ResolvedSampling

from llm_service.engines.layerwise.model import LayerwiseState
from llm_service.job import TokenEvent
from tests.integration.llm.layerwise_support import FASTV, answer, deep_checkpoint, events, job, layerwise, replica_of
from tests.integration.llm.support import Whole, picture


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return deep_checkpoint(tmp_path_factory.mktemp("deep"), "llama")


async def settles(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for belongs to another thread
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("after", [1, 5])
async def test_a_cancelled_request_stops(whole: Whole, after: int):
    tokens = whole.tokens(picture(112, 90))
    with replica_of(whole) as replica:
        engine = layerwise(replica)
        stream = replica.generate(job(whole, [tokens], pruning=FASTV, sampling={"max_new_tokens": 900}))
        for _ in range(after):
            await anext(stream)
        await stream.aclose()
        await settles(lambda: not engine._running)
        assert len(await answer(replica, job(whole, [tokens], pruning=FASTV, sampling={"max_new_tokens": 3}))) == 3


async def test_an_idle_engine_holds_no_keys_and_values(whole: Whole):
    def held() -> int:
        gc.collect()
        return sum(type(each) is LayerwiseState for each in gc.get_objects())

    tokens = whole.tokens(picture(112, 90))
    asked = job(whole, [tokens], pruning=FASTV, sampling={"max_new_tokens": 3})
    with replica_of(whole) as replica:
        await asyncio.gather(*(answer(replica, asked) for _ in range(4)))
        await settles(lambda: not layerwise(replica)._running and not held())


async def test_a_cancelled_request_leaves_the_queue(whole: Whole):
    asked = job(whole, [whole.tokens(picture(112, 90))], pruning=FASTV, sampling={"max_new_tokens": 900})
    with replica_of(whole) as replica:
        engine = layerwise(replica)
        pulls = [asyncio.ensure_future(_all(replica.generate(asked))) for _ in range(6)]
        await settles(lambda: len(engine._waiting) == 2)
        for pull in pulls:
            pull.cancel()
        assert all(
            isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*pulls, return_exceptions=True)
        )
        await settles(lambda: not engine._running and not engine._waiting)
        assert len(await answer(replica, replace(asked, sampling=ResolvedSampling(3)))) == 3


async def test_a_full_queue_refuses(whole: Whole):
    tokens = whole.tokens(picture(112, 90))
    asked = job(whole, [tokens], pruning=FASTV, sampling={"max_new_tokens": 40})
    with replica_of(whole, max_waiting=2) as replica:
        expected = await answer(replica, asked)
        outcomes = await asyncio.gather(*(answer(replica, asked) for _ in range(14)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, OverloadedError)]
    answers = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert len(refused) >= 14 - 7  # four run, two wait, one may have come free meanwhile
    assert answers
    assert all(found == expected for found in answers)
    assert len(refused) + len(answers) == 14


async def test_keys_and_values_are_bounded(whole: Whole):
    """Requests beyond the bound wait for those before them; one that can never fit is refused."""
    tokens = whole.tokens(picture(112, 90))
    asked = job(whole, [tokens], pruning=FASTV, sampling={"max_new_tokens": 20})
    with replica_of(whole) as replica:
        engine, held = layerwise(replica), []
        need = len(asked.token_ids) - 1 + tokens.num_tokens + tokens.grid.valid.height + 20
        engine._kv_tokens = 2 * need
        model_step = engine._model.step

        def step(*args):
            held.append(len(engine._running))
            return model_step(*args)

        engine._model.step = step
        answers = await asyncio.gather(*(answer(replica, asked) for _ in range(5)))
        assert max(held) == 2
        assert len({tuple(found) for found in answers}) == 1
        with pytest.raises(PromptTooLongError, match=f"this replica holds {2 * need}"):
            await answer(replica, replace(asked, sampling=ResolvedSampling(2 * need)))


async def test_a_failing_step_ends_its_request_and_nothing_else(whole: Whole):
    tokens = whole.tokens(picture(112, 90))
    asked = job(whole, [tokens], pruning=FASTV, sampling={"max_new_tokens": 60})
    with replica_of(whole) as replica:
        expected = await answer(replica, asked)
        layer = layerwise(replica)._model._layers[1]
        streams = [replica.generate(asked) for _ in range(3)]
        begun = [list((await anext(stream)).token_ids) for stream in streams]

        def explode(*_):
            handle.remove()
            raise RuntimeError("device lost")

        handle = layer.register_forward_pre_hook(explode)

        async def rest(stream, head: list[int]):
            return head + [token async for event in stream for token in event.token_ids]

        outcomes = await asyncio.gather(
            *(rest(stream, head) for stream, head in zip(streams, begun, strict=True)), return_exceptions=True
        )
        failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert len(failed) == 1
        assert isinstance(failed[0], InternalError)
        assert "device lost" not in str(failed[0])
        assert [outcome for outcome in outcomes if outcome not in failed] == [expected] * 2
        assert replica.healthy
        assert await answer(replica, asked) == expected


async def test_stopping_ends_what_runs_and_leaves_no_thread(whole: Whole):
    before = {thread for thread in threading.enumerate() if not thread.daemon}
    asked = job(whole, [whole.tokens(picture(112, 90))], pruning=FASTV, sampling={"max_new_tokens": 900})
    with replica_of(whole) as replica:
        streams = [replica.generate(asked) for _ in range(6)]
        pulls = [asyncio.ensure_future(_all(stream)) for stream in streams]
        await settles(lambda: len(layerwise(replica)._waiting) == 2)
        await asyncio.to_thread(replica.stop)
        outcomes = await asyncio.gather(*pulls, return_exceptions=True)
        assert all(isinstance(outcome, UnavailableError) for outcome in outcomes)
        assert not replica.healthy
        with pytest.raises(UnavailableError):
            await answer(replica, asked)
    left = {thread for thread in threading.enumerate() if not thread.daemon} - before
    assert not [thread for thread in left if "asyncio" not in thread.name and "ThreadPool" not in thread.name]


async def _all(stream) -> list[TokenEvent]:
    return [event async for event in stream]


async def test_the_end_id_ends_the_answer(whole: Whole):
    asked = job(whole, [whole.tokens(picture(112, 90))], pruning=FASTV)
    with replica_of(whole) as replica:
        expected = await answer(replica, asked)
        end = next(token for token in expected[2:] if token not in expected[:2])
        layerwise(replica)._end_ids = frozenset((end,))
        found = await events(replica, asked)
    assert [token for event in found for token in event.token_ids] == expected[: expected.index(end) + 1]
    assert found[-1].finished
