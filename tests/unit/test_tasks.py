"""How cancellation and errors pass between a task and its awaiter."""

import asyncio

import pytest
from visionsplit.serving.async_helpers import finish_despite_cancellation, gather_or_cancel


async def test_a_cancelled_awaiter_leaves_when_the_work_is_over():
    may_end, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await may_end.wait()
        ended.set()

    awaiter = asyncio.ensure_future(finish_despite_cancellation(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        awaiter.cancel()
    await asyncio.sleep(0.01)
    assert not awaiter.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await awaiter
    assert ended.is_set()


async def test_the_result_and_the_error_are_those_of_the_work():
    async def fail() -> None:
        raise ValueError("so it ends")

    assert await finish_despite_cancellation(asyncio.sleep(0, "result")) == "result"
    with pytest.raises(ValueError, match="so it ends"):
        await finish_despite_cancellation(fail())


async def test_a_timeout_around_work_waits_for_its_end():
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await finish_despite_cancellation(asyncio.sleep(0.05))


async def test_together_keeps_the_order_and_the_first_error_ends_the_rest():
    assert await gather_or_cancel(asyncio.sleep(0.01 * (3 - n), n) for n in range(3)) == [0, 1, 2]
    ended = asyncio.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def fail() -> None:
        raise ValueError("so it ends")

    with pytest.raises(ValueError, match="so it ends"):
        await gather_or_cancel([forever(), fail()])
    await asyncio.wait_for(ended.wait(), 5)
