"""Which uploads are given up, in favour of which others, and the callers' errors."""

import asyncio
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry, Gauge
from visionsplit.errors import OverloadedError
from visionsplit.serving.fairness import RelayedCaller

from llm_service.config import Limits
from llm_service.gateway import uploads as module
from llm_service.gateway.uploads import Reception, Uploads


def uploads_with(**limits) -> Uploads:
    return Uploads(Limits(**limits), Gauge("uploads", "Under way.", registry=CollectorRegistry()))


class Call:
    """An upload that does what it is told, as the task of a call does."""

    def __init__(self, uploads: Uploads, caller: str, *, begun: bool = False) -> None:
        self._message = asyncio.Event()
        self.after: list = []  # what it does when its next message has come
        self.done: list = []  # of that
        self.reception: Reception | None = None
        self.task = asyncio.create_task(self._run(uploads, caller, begun))

    async def _run(self, uploads: Uploads, caller: str, begun: bool) -> None:
        with uploads.call(caller) as self.reception:
            async with self.reception.receiving():
                if begun:
                    self.reception.begin()
                await self._message.wait()
                for step in self.after:
                    step(self.reception)
                    self.done.append(step)
                    await asyncio.sleep(5)

    def message(self, *after) -> None:
        """A message arrives."""
        self.after.extend(after)
        self._message.set()


async def ended(calls: list[Call]) -> int:
    await asyncio.sleep(0.01)
    return sum(call.task.done() for call in calls)


async def leave(*calls: Call) -> None:
    for call in calls:
        call.task.cancel()
    await asyncio.gather(*(call.task for call in calls), return_exceptions=True)


async def test_a_burst_of_calls_is_heard_to_the_last(monkeypatch: pytest.MonkeyPatch):
    """The headers of calls that are opened together come a turn of the event loop later, or some turns."""
    monkeypatch.setattr(module, "_YOUNG_SECONDS", 60.0)  # however slow the machine is
    uploads = uploads_with()
    calls = [Call(uploads, "a") for _ in range(500)]
    await asyncio.sleep(0)
    assert not await ended(calls)
    await leave(*calls)


async def test_calls_without_a_header_are_counted_by_address(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_YOUNG_SECONDS", 0.0)
    uploads = uploads_with()
    inventive = [Call(uploads, RelayedCaller(f"name-{number}", "one")) for number in range(256)]
    await asyncio.sleep(0.01)
    others = [Call(uploads, RelayedCaller("name", "another")) for _ in range(8)]
    assert await ended(others) == 0
    assert [call.task.done() for call in inventive[:9]] == [True] * 8 + [False]
    with pytest.raises(OverloadedError, match="header had not arrived"):
        await inventive[0].task
    await leave(*inventive, *others)


async def test_calls_without_a_header_have_a_bound_whatever_their_age():
    uploads = uploads_with()
    calls = [Call(uploads, "a") for _ in range(520)]
    await asyncio.sleep(0)
    assert await ended(calls) == 8
    await leave(*calls)


async def in_the_same_turn(uploads: Uploads, call: Call, step) -> None:
    """A message arrives in the turn of the event loop in which its upload is given up."""
    await asyncio.sleep(0.01)
    call.message(step)
    assert call.reception is not None
    call.reception.give_up("others needed its room")
    async with asyncio.timeout(1):
        with pytest.raises(OverloadedError, match="others needed its room"):
            await call.task
    assert not call.done
    assert (uploads._places.taken, uploads._bytes.taken) == (0, 0)


@pytest.mark.parametrize("begun", [False, True])
async def test_a_message_does_not_undo_that_its_upload_was_given_up(begun: bool):
    uploads = uploads_with()
    step = (lambda reception: reception.reserve(100)) if begun else Reception.begin
    await in_the_same_turn(uploads, Call(uploads, "a", begun=begun), step)
    await in_the_same_turn(uploads, Call(uploads, "a", begun=begun), Reception.note_progress)


async def test_a_refusal_says_whose_calls_hold_the_room():
    uploads = uploads_with(max_uploads=16, max_upload_bytes=1600, caller_share=0.75)

    def take(stack: ExitStack, caller: str) -> Reception:
        reception = stack.enter_context(uploads.call(caller))
        uploads.take_place(reception)
        uploads.take_room(reception, 100)
        return reception

    def refused(caller: str) -> tuple[str, str]:
        with ExitStack() as stack:
            reception = stack.enter_context(uploads.call(caller))
            with pytest.raises(OverloadedError) as place:
                uploads.take_place(reception)
            with pytest.raises(OverloadedError) as room:
                uploads.take_room(reception, 100)
            return str(place.value), str(room.value)

    names = [RelayedCaller(f"name-{number}", "relay") for number in range(3)]
    with ExitStack() as held:
        for _ in range(12):
            take(held, names[0])
        assert refused(names[0]) == (
            "12 uploads of this caller are under way, and no more are accepted",
            "other calls of this caller hold 1200 bytes of vision tokens; "
            "this request's 100 and theirs are more than 1200",
        )
        for _ in range(2):
            take(held, names[1])
        assert refused(names[2]) == (
            "14 uploads of this address are under way, and no more are accepted",
            "other calls of this address hold 1400 bytes of vision tokens; "
            "this request's 100 and theirs are more than 1400",
        )
        for _ in range(2):
            take(held, "another")
        assert refused("new") == (
            "16 uploads are under way, and no more are accepted",
            "other calls hold 1600 bytes of vision tokens; this request's 100 and theirs are more than 1600",
        )


async def test_a_pause_without_uploads_is_not_taken_for_the_time_of_one():
    """Whatever the last of them ended by."""
    uploads = uploads_with(max_uploads=8, caller_share=1.0)
    for _ in range(2):
        calls = [Call(uploads, "a", begun=True) for _ in range(8)]
        await asyncio.sleep(0.01)
        calls[0].message()
        await calls[0].task
        await leave(*calls)
        await asyncio.sleep(0.3)
    assert uploads.retry_after() == 1.0  # unknown: each time only the first one was served
