"""Turns among callers, and their shares."""

import asyncio
import random

import pytest
from visionsplit.serving.fairness import FairGate, FairQueue, RelayedCaller, Shares
from visionsplit.serving.overload import ServiceQueue


def test_callers_take_turns_and_each_keeps_its_order():
    turns = FairQueue()
    for number in range(5):
        turns.put("heavy", number)
    turns.put("light", "one")
    turns.put("other", "two")
    assert len(turns) == 7
    assert turns.first() == 0
    assert [turns.pop() for _ in range(7)] == [0, "one", "two", 1, 2, 3, 4]
    with pytest.raises(IndexError):
        turns.pop()


def test_what_leaves_its_line_costs_nobody_a_turn():
    turns = FairQueue()
    turns.put("a", 1)
    turns.put("b", 2)
    assert turns.remove("a", 1)
    assert not turns.remove("a", 1)
    assert not turns.remove("c", 1)
    assert (len(turns), turns.pop()) == (1, 2)


async def passing(gate, caller, passed, leave):
    async with gate.place(caller):
        passed.append(caller)
        await leave.wait()


async def test_a_gate_lets_callers_in_by_turns_and_forgets_who_gave_up():
    gate, passed, leave = FairGate(1), [], asyncio.Event()
    crowd = [asyncio.create_task(passing(gate, "heavy", passed, leave)) for _ in range(5)]
    await asyncio.sleep(0)
    light = asyncio.create_task(passing(gate, "light", passed, leave))
    gone = asyncio.create_task(passing(gate, "gone", passed, leave))
    await asyncio.sleep(0)
    assert (passed, len(gate)) == (["heavy"], 6)
    gone.cancel()
    leave.set()
    await asyncio.gather(*crowd, light)
    assert passed == ["heavy", "heavy", "light", "heavy", "heavy", "heavy"]
    assert not len(gate)


async def test_one_who_gives_up_as_it_is_let_in_passes_its_place_on():
    gate, passed, leave = FairGate(1), [], asyncio.Event()
    first, second, third = (asyncio.create_task(passing(gate, name, passed, leave)) for name in "abc")
    await asyncio.sleep(0)
    leave.set()
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(first, second, third, return_exceptions=True)
    assert passed[-1] == "c"


async def test_a_larger_gate_lets_in_at_once():
    gate, passed, leave = FairGate(1), [], asyncio.Event()
    crowd = [asyncio.create_task(passing(gate, "a", passed, leave)) for _ in range(3)]
    await asyncio.sleep(0)
    gate.resize(2)
    await asyncio.sleep(0)
    assert len(passed) == 2
    leave.set()
    await asyncio.gather(*crowd)


def test_shares():
    shares = Shares(8, 0.5)
    shares.take("a", 4)
    assert not shares.fits("a", 1)
    assert shares.fits("b", 4)
    shares.give_back("a", 4)
    assert (shares.taken, shares.held_by("a")) == (0, 0)
    assert shares.fits("a", 6)  # more than its part at once, where it holds nothing


async def test_waiting_calls_that_are_cancelled_all_at_once_hold_up_nobody() -> None:
    gate, order = FairGate(1), []

    async def enter(name: str) -> None:
        async with gate.place(name):
            order.append(name)

    async with gate.place("first"):
        leaving = [asyncio.create_task(enter(f"leaving {number}")) for number in range(4)]
        staying = asyncio.create_task(enter("staying"))
        await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
    assert [type(end) for end in await asyncio.gather(*leaving, return_exceptions=True)] == 4 * [asyncio.CancelledError]
    async with asyncio.timeout(5):
        await staying
        await enter("last")
    assert order == ["staying", "last"]


def test_what_is_ahead_is_what_would_be_taken_first():
    """By counting, and by taking turns."""
    rng = random.Random(0)
    for _ in range(200):
        turns, names = FairQueue(), "abcd"[: rng.randint(1, 4)]
        for number in range(rng.randint(0, 20)):
            turns.put(rng.choice(names), number)
        ahead = turns.ahead_of("a")
        turns.put("a", "new")
        taken = [turns.pop() for _ in range(len(turns))].index("new")
        assert taken <= ahead <= taken + len(names) - 1  # whose turn it is within a round is not counted


async def test_a_line_measures_who_was_served_and_lets_in_while_there_is_room():
    now = 0.0
    line, leave = ServiceQueue(2, clock=lambda: now), asyncio.Semaphore(0)

    async def call(caller):
        async with line.turn(caller):
            await leave.acquire()

    calls = [asyncio.create_task(call("heavy")) for _ in range(2)]
    await asyncio.sleep(0)
    calls[0].cancel()
    await asyncio.wait(calls[:1])
    now += 100.0  # there is room, so this is not a time in which the line was busy
    assert line.seconds_to_wait("heavy") == 0
    calls += [asyncio.create_task(call("heavy")) for _ in range(9)]
    await asyncio.sleep(0)
    assert line.waiting == 8
    for _ in range(4):
        now += 2.0
        leave.release()
        await asyncio.sleep(0.01)
    assert line.waiting == 4
    assert line.seconds_to_wait("heavy") == 2.0 * 5
    assert line.seconds_to_wait("light") == 2.0 * 2
    line.resize(20)
    await asyncio.sleep(0)
    assert (line.waiting, line.seconds_to_wait("heavy")) == (0, 0)
    for _ in calls:
        leave.release()
    await asyncio.gather(*calls, return_exceptions=True)


def test_a_relay_may_have_more_than_a_caller_and_its_callers_share_it():
    shares = Shares(16, 0.75)
    names = [RelayedCaller(f"name-{number}", "relay") for number in range(16)]
    for name in names[:14]:
        assert shares.fits(name, 1)
        shares.take(name, 1)
    assert not any(shares.fits(name, 1) for name in (*names, "relay"))
    assert shares.fits("another", 2)
    assert shares.fits(RelayedCaller("name-0", "another"), 2)
    for name in names[:14]:
        shares.give_back(name, 1)
    for _ in range(12):
        shares.take(names[0], 1)
    assert not shares.fits(names[0], 1)
    assert shares.fits(names[1], 2)
    assert shares.fits("relay", 2)


def test_a_name_means_nothing_at_another_address():
    shares = Shares(4, 0.5)
    for _ in range(2):
        shares.take(RelayedCaller("victim", "attacker"), 1)
    assert shares.fits("victim", 2)
    assert shares.fits(RelayedCaller("victim", "relay"), 2)


def test_what_is_in_the_way_depends_on_which_part_is_used_up():
    shares = Shares(16, 0.75)
    names = [RelayedCaller(f"name-{number}", "relay") for number in range(3)]
    shares.take(names[0], 12)
    assert [shares.is_in_the_way(other, names[0], 1) for other in (*names, "another")] == [True, False, False, False]
    shares.take(names[1], 2)  # all that the address may have
    assert [shares.is_in_the_way(other, names[2], 1) for other in (*names, "another")] == [True, True, True, False]
    shares.take("another", 2)  # all that there is
    assert all(shares.is_in_the_way(other, "new", 1) for other in (*names, "another"))
