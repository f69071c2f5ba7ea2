"""What an overloaded service says about when to come back, over a real socket; and how it comes to know."""

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from visionsplit.errors import OverloadedError
from visionsplit.overload import CallPlaces
from visionsplit.wire.status import error_from_rpc

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
    assert error_from_rpc(failure).retry_after_seconds == 1.5


async def test_a_refusal_for_good_names_no_time():
    error = error_from_rpc(await refusal(OverloadedError("too large for ever")))
    assert isinstance(error, OverloadedError)
    assert error.retry_after_seconds is None


async def test_what_cannot_be_read_is_no_time():
    async def refuse(context):
        metadata = (("grpc-status-details-bin", b"\xff\xff"),)
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", trailing_metadata=metadata)

    async with serving(refuse) as stub:
        assert error_from_rpc(await failure_of(stub)).retry_after_seconds is None


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def run_calls(places, clock, *, calls, seconds_each, keep=0):
    """Let calls end one after the other, `seconds_each` apart, while the others wait."""
    held = []
    for number in range(calls):
        place = places.call(f"caller {number}", None)
        place.__enter__()
        held.append(place)
    for place in held[: calls - keep]:
        clock.now += seconds_each
        place.__exit__(None, None, None)
    return held[calls - keep :]


def test_the_time_follows_from_how_quickly_calls_end():
    clock = Clock()
    places = CallPlaces(16, clock=clock)
    run_calls(places, clock, calls=16, seconds_each=3.0)
    held = run_calls(places, clock, calls=16, seconds_each=0.5, keep=15)
    held += run_calls(places, clock, calls=1, seconds_each=0.5, keep=1)
    with pytest.raises(OverloadedError, match="16 calls are running") as caught, places.call("late", None):
        pass
    assert len(held) == 16
    assert 0.5 < caught.value.retry_after_seconds < 10


def test_a_call_that_would_wait_in_vain_is_refused_at_once():
    clock = Clock()
    places = CallPlaces(64, clock=clock)
    held = run_calls(places, clock, calls=40, seconds_each=1.0, keep=20)
    with pytest.raises(OverloadedError, match=r"would take 2.* seconds and has 10") as caught, places.call("x", 10.0):
        pass
    assert len(held) == 20
    assert 1 < caught.value.retry_after_seconds < 20
    with places.call("x", 60.0), places.call("y", None):
        pass


def test_a_quiet_service_refuses_nobody_for_what_it_did_before():
    clock = Clock()
    places = CallPlaces(64, clock=clock)
    run_calls(places, clock, calls=40, seconds_each=10.0)
    with places.call("x", 1.0):
        pass


def test_one_caller_leaves_room_for_others():
    places = CallPlaces(4, share=0.75)
    held = [places.call("heavy", None) for _ in range(3)]
    for place in held:
        place.__enter__()
    with pytest.raises(OverloadedError, match="3 calls of this caller"), places.call("heavy", None):
        pass
    with places.call("other", None):
        pass
