"""The choice of the next address and of retries, on a clock that the test controls."""

import grpc
import pytest
from visionsplit.errors import DeadlineError, InvalidRequestError, OverloadedError, UnavailableError
from visionsplit.wire.grpc_status import status_parts
from visionsplit_client import Retries, Timeouts
from visionsplit_client._retry import Attempts, Endpoints


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Failure(grpc.RpcError):
    def __init__(self, status=grpc.StatusCode.UNAVAILABLE):
        self.status = status

    def code(self):
        return self.status

    def details(self):
        return "gone"

    def trailing_metadata(self):
        return ()


@pytest.fixture
def clock():
    return Clock()


def attempts(clock, addresses=("a",), timeout=None, **retries) -> Attempts:
    endpoints = Endpoints(addresses, "a service", clock=clock)
    return Attempts(endpoints, Retries(**retries), timeout, clock=clock, rng=lambda: 0.0)


def test_round_robin(clock):
    endpoints = Endpoints(["a", "b", "c"], "a service", clock=clock)
    assert [endpoints.pick() for _ in range(5)] == ["a", "b", "c", "a", "b"]


def test_a_failing_address_is_left_out_and_tried_again_later(clock):
    endpoints = Endpoints(["a", "b"], "a service", clock=clock)
    endpoints.failed("a")
    assert [endpoints.pick() for _ in range(3)] == ["b", "b", "b"]
    clock.now += 0.6
    assert "a" in {endpoints.pick(), endpoints.pick()}
    endpoints.failed("a")  # the second failure keeps it out for longer
    clock.now += 0.6
    assert [endpoints.pick() for _ in range(2)] == ["b", "b"]
    endpoints.succeeded("a")
    assert {endpoints.pick(), endpoints.pick()} == {"a", "b"}


def test_if_all_fail_the_one_due_soonest_is_taken(clock):
    endpoints = Endpoints(["a", "b"], "a service", clock=clock)
    endpoints.failed("b")
    endpoints.failed("b")
    endpoints.failed("a")
    assert [endpoints.pick() for _ in range(2)] == ["a", "a"]


def test_delays_grow_up_to_their_limit(clock):
    tries = attempts(clock, attempts=6, initial_delay=0.2, max_delay=1.0)
    delays = []
    for _ in range(5):
        tries.begin()
        delays.append(tries.failed(Failure(), repeatable=True))
    assert delays == pytest.approx([0.2, 0.4, 0.8, 1.0, 1.0])
    tries.begin()
    with pytest.raises(UnavailableError, match="after 6 attempts"):
        tries.failed(Failure(), repeatable=True)


def test_jitter_leaves_out_at_most_half(clock):
    endpoints = Endpoints(["a"], "a service", clock=clock)
    tries = Attempts(endpoints, Retries(initial_delay=0.2), None, clock=clock, rng=lambda: 0.999)
    tries.begin()
    assert 0.1 <= tries.failed(Failure(), repeatable=True) < 0.11


def test_another_address_is_tried_at_once(clock):
    tries = attempts(clock, ["a", "b"], attempts=3)
    assert tries.begin()[0] == "a"
    assert tries.failed(Failure(), repeatable=True) == 0
    assert tries.begin()[0] == "b"
    assert tries.failed(Failure(), repeatable=True) > 0


def test_every_address_gets_its_try(clock):
    tries = attempts(clock, "abcdefg", attempts=2)
    for _ in range(6):
        tries.begin()
        assert tries.failed(Failure(), repeatable=True) == 0
    assert tries.begin()[0] == "g"


@pytest.mark.parametrize("kind", [grpc.StatusCode.INVALID_ARGUMENT])
def test_other_errors_end_the_call(clock, kind):
    tries = attempts(clock)
    tries.begin()
    with pytest.raises(InvalidRequestError):
        tries.failed(Failure(kind), repeatable=True)


def test_what_has_begun_is_not_repeated(clock):
    tries = attempts(clock)
    tries.begin()
    with pytest.raises(UnavailableError, match="a cannot be reached: gone"):
        tries.failed(Failure(), repeatable=False)


def test_time_is_shared_by_all_tries(clock):
    tries = attempts(clock, timeout=10)
    clock.now += 50  # time before the first try does not count
    assert tries.begin()[1] == 10
    clock.now += 4
    tries.failed(Failure(), repeatable=True)
    assert tries.begin()[1] == 6
    clock.now += 5.9
    with pytest.raises(UnavailableError):  # the next try would come too late
        tries.failed(Failure(), repeatable=True)
    clock.now += 1
    with pytest.raises(DeadlineError):
        tries.begin()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Retries(attempts=0),
        lambda: Retries(initial_delay=-1),
        lambda: Timeouts(call=0),
        lambda: Timeouts(fetch=float("nan")),
        lambda: Endpoints([], "a service"),
        lambda: Endpoints(["a", "a"], "a service"),
    ],
)
def test_wrong_settings_are_refused(make):
    with pytest.raises(ValueError, match=r".+"):
        make()


class Full(Failure):
    """A refusal as a service sends it."""

    def __init__(self, retry_after):
        super().__init__(grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.metadata = status_parts(OverloadedError("full", retry_after))[1]

    def trailing_metadata(self):
        return self.metadata


def test_a_full_service_is_waited_for_where_the_caller_wishes(clock):
    tries = attempts(clock, attempts=3, overloaded=True, timeout=10)
    tries.begin()
    assert tries.failed(Full(3.5), repeatable=True) == 3.5
    tries.begin()
    with pytest.raises(OverloadedError, match="after 2 attempts") as caught:
        tries.failed(Full(11), repeatable=True)  # beyond the deadline
    assert caught.value.retry_after_seconds == 11


def test_waiting_is_spread_beyond_the_named_time(clock):
    endpoints = Endpoints(["a"], "a service", clock=clock)
    tries = Attempts(endpoints, Retries(overloaded=True), None, clock=clock, rng=lambda: 0.999)
    tries.begin()
    assert 2.9 < tries.failed(Full(2), repeatable=True) < 3


def test_a_full_service_has_not_failed_and_another_is_asked_at_once(clock):
    tries = attempts(clock, ["a", "b"], attempts=3, overloaded=True)
    assert tries.begin()[0] == "a"
    assert tries.failed(Full(5), repeatable=True) == 0
    assert tries.begin()[0] == "b"
    assert tries.failed(Full(5), repeatable=True) == 5
    assert tries.begin()[0] == "a"


@pytest.mark.parametrize(("overloaded", "retry_after"), [(False, 1.0), (True, None)])
def test_a_refusal_ends_the_call_unless_waiting_helps(clock, overloaded, retry_after):
    tries = attempts(clock, overloaded=overloaded)
    tries.begin()
    with pytest.raises(OverloadedError) as caught:
        tries.failed(Full(retry_after), repeatable=True)
    assert caught.value.retry_after_seconds == retry_after
