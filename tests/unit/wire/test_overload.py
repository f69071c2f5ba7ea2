"""An overloaded service's retry times, over a real socket, and how they are estimated."""

import asyncio

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from visionsplit.errors import OverloadedError
from visionsplit.serving.overload import CallPlaces, ServiceRate, refuse_late
from visionsplit.wire.grpc_status import error_from_rpc

from tests.unit.wire.test_status import failure_of, serving


async def refusal(error):
    async def refuse(context):
        raise error

    async with serving(refuse) as stub:
        return await failure_of(stub)


async def test_the_time_to_wait_travels_in_the_standard_place():
    failure = await refusal(OverloadedError("the queue is full", 2.75))
    assert failure.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    (details,) = [value for key, value in failure.trailing_metadata() if key == "grpc-status-details-bin"]
    status = status_pb2.Status.FromString(details)
    assert (status.code, status.message) == (8, failure.details())
    retry = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(retry)
    assert retry.retry_delay.ToTimedelta().total_seconds() == 2.75
    error = error_from_rpc(failure)
    assert isinstance(error, OverloadedError)
    assert (str(error), error.retry_after_seconds) == ("the queue is full", 2.75)


async def test_a_long_text_leaves_the_time_room():
    failure = await refusal(OverloadedError("字" * 20_000, 1.5))
    error = error_from_rpc(failure)
    assert isinstance(error, OverloadedError)
    assert error.retry_after_seconds == 1.5


async def test_a_refusal_for_good_names_no_time():
    error = error_from_rpc(await refusal(OverloadedError("too large for ever")))
    assert isinstance(error, OverloadedError)
    assert error.retry_after_seconds is None


async def test_what_cannot_be_read_is_no_time():
    async def refuse(context):
        metadata = (("grpc-status-details-bin", b"\xff\xff"),)
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", trailing_metadata=metadata)

    async with serving(refuse) as stub:
        error = error_from_rpc(await failure_of(stub))
    assert isinstance(error, OverloadedError)
    assert error.retry_after_seconds is None


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_the_time_to_ask_again_follows_from_how_quickly_places_become_free(clock):
    places = CallPlaces(16, clock=clock)

    def fill():
        held = [places.call(f"caller {number}") for number in range(16 - places.active)]
        for place in held:
            place.__enter__()
        return held

    def refused_for():
        with pytest.raises(OverloadedError, match="16 calls are running") as caught, places.call("late"):
            pass
        return caught.value.retry_after_seconds

    held = fill()
    clock.now += 1000
    assert refused_for() == 1.0  # unknown, and it does not grow while nothing ends
    for seconds in (3.0, 0.5):
        for _ in range(4):
            for place in held[:4]:
                clock.now += seconds
                place.__exit__(None, None, None)
            held = held[4:] + fill()
        assert refused_for() == pytest.approx(2 * seconds)  # an eighth of the places
    clock.now += 1000
    assert refused_for() == pytest.approx(1.0)


def test_an_idle_time_is_not_taken_for_the_time_of_a_call(clock):
    """Not even where the calls before it ended by cancellation."""
    places = CallPlaces(8, clock=clock)

    def fill():
        held = [places.call("a") for _ in range(8)]
        for place in held:
            place.__enter__()
        return held

    for _ in range(2):
        served, *cancelled = fill()
        served.__exit__(None, None, None)
        for place in cancelled:
            place.__exit__(asyncio.CancelledError, asyncio.CancelledError(), None)
        clock.now += 7200.0
    held = fill()
    with pytest.raises(OverloadedError) as caught:
        places.check("b")
    assert (len(held), caught.value.retry_after_seconds) == (8, 1.0)


def test_one_caller_leaves_room_for_others():
    places = CallPlaces(4, share=0.75)
    held = [places.call("heavy") for _ in range(3)]
    for place in held:
        place.__enter__()
    with pytest.raises(OverloadedError, match="3 calls of this caller"), places.call("heavy"):
        pass
    with places.call("other"):
        pass


def test_the_wait_follows_from_departures_and_from_longer_silence(clock):
    rate = ServiceRate(2, clock)
    rate.watch(busy=True)
    clock.now += 1.0
    assert rate.seconds_for(10) == 5.0  # two are in service for a second already: at least so much
    for _ in range(8):
        rate.record(1, busy=True)
        clock.now += 1.0
    assert rate.seconds_for(10) == 10.0
    clock.now += 8.0  # nine seconds without a departure, where there were never more than one
    assert rate.seconds_for(10) == pytest.approx(20.0)
    assert rate.retry_after(10) == 10.0
    rate.record(1, busy=False)
    assert rate.seconds_for(10) == pytest.approx(10 * 17 / 9)
    clock.now += 100.0
    rate.watch(busy=True)  # after such a pause, nothing is known
    assert rate.seconds_for(10) == 0.0


def test_a_call_is_refused_for_its_wait_alone():
    refuse_late(1000.0, None)
    refuse_late(7.0, 10.0)
    refuse_late(0.0, 0.0)
    with pytest.raises(OverloadedError, match=r"about 9\.0 seconds.*in 10\.0 seconds") as caught:
        refuse_late(9.0, 10.0)
    assert caught.value.retry_after_seconds == 1.5
    with pytest.raises(OverloadedError) as caught:
        refuse_late(1e9, 10.0)
    assert caught.value.retry_after_seconds == 60.0
