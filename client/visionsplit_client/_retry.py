"""Which address a call goes to and when it is repeated. No input or output happens here."""

import random
import threading
import time
from collections.abc import Callable, Sequence

import grpc
from visionsplit.errors import DeadlineError, OverloadedError, UnavailableError, VisionSplitError
from visionsplit.network.endpoint_selection import Backoff, Rotation, growing_pause

from visionsplit_client._errors import UnreachableError, call_error
from visionsplit_client._settings import Retries

# How long a failing address is left out; the time doubles with each further failure.
_FIRST_PENALTY_SECONDS = 0.5
_MAX_PENALTY_SECONDS = 10.0
# gRPC takes a deadline that is some decades away for one that has passed.
_LONGEST_SECONDS = 1e8


class Endpoints:
    """Equal services at several addresses, used in turn. Those that failed lately come last. Thread-safe."""

    def __init__(self, addresses: Sequence[str], service: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        if not addresses:
            raise ValueError("at least one address is needed")
        if len(set(addresses)) != len(addresses):
            raise ValueError("an address is given twice")
        self.service = service  # what is expected there, with its article
        self.addresses = tuple(addresses)
        self._rotation = Rotation(self.addresses)
        self._backoffs = {
            address: Backoff(_FIRST_PENALTY_SECONDS, _MAX_PENALTY_SECONDS, clock=clock) for address in addresses
        }
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.addresses)

    def pick(self, avoid: frozenset[str] = frozenset()) -> str:
        """The next address: one outside `avoid` if possible, among those one that works, else the soonest due."""
        with self._lock:
            return self._rotation.pick(lambda address: (address in avoid, self._backoffs[address].remaining))

    def has_working(self, avoid: frozenset[str]) -> bool:
        """Whether an address outside `avoid` has not failed lately."""
        with self._lock:
            return any(address not in avoid and not one.remaining for address, one in self._backoffs.items())

    def succeeded(self, address: str) -> None:
        with self._lock:
            self._backoffs[address].succeeded()

    def failed(self, address: str) -> None:
        with self._lock:
            self._backoffs[address].failed()


class Attempts:
    """The tries of one call, whose time runs from the first. Not thread-safe: a call has one owner."""

    def __init__(
        self,
        endpoints: Endpoints,
        retries: Retries,
        timeout: float | None,
        *,
        on_lost: Callable[[str], None] = lambda address: None,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._endpoints = endpoints
        self._retries = retries
        self._timeout = timeout
        self._on_lost = on_lost  # called with an address from which no answer came
        self._clock = clock
        self._rng = rng
        self._deadline: float | None = None
        self._limit = max(retries.attempts, len(endpoints)) if retries.attempts > 1 else 1
        self._tried: set[str] = set()
        self._count = 0
        self.address = ""

    def begin(self) -> tuple[str, float | None]:
        """Where the next try goes, and the seconds it may take.

        Raises:
            DeadlineError: no time is left.
        """
        if self._count == 0 and self._timeout is not None:
            self._deadline = self._clock() + min(self._timeout, _LONGEST_SECONDS)
        remaining = self._remaining()
        if remaining is not None and remaining <= 0:
            raise DeadlineError(f"no answer within {self._timeout:g} seconds")
        self.address = self._endpoints.pick(frozenset(self._tried))
        self._tried.add(self.address)
        self._count += 1
        return self.address, remaining

    def succeeded(self) -> None:
        """The service answered, be it with an error of the caller's."""
        self._endpoints.succeeded(self.address)

    def failed(self, rpc_error: grpc.RpcError, *, repeatable: bool) -> float:
        """Seconds to wait before the next try.

        Raises:
            VisionSplitError: the call must not be tried again.
        """
        error = call_error(rpc_error, self.address, self._timeout, self._endpoints.service)
        if isinstance(error, UnavailableError | DeadlineError):
            self._on_lost(self.address)
        if isinstance(error, UnavailableError):
            self._endpoints.failed(self.address)
        elif not self._may_wait_for(error):
            raise error from rpc_error
        delay = self._delay(error)
        remaining = self._remaining()
        if not repeatable or self._count >= self._limit or (remaining is not None and delay >= remaining):
            raise self._final(error) from rpc_error
        return delay

    def _may_wait_for(self, error: VisionSplitError) -> bool:
        """Whether a service is full for now, and the caller wishes to wait."""
        return self._retries.overloaded and isinstance(error, OverloadedError) and error.retry_after_seconds is not None

    def _delay(self, error: VisionSplitError) -> float:
        if self._endpoints.has_working(frozenset(self._tried)):
            return 0.0
        if isinstance(error, OverloadedError) and error.retry_after_seconds is not None:
            # Never earlier than the service says, and not at the same moment as others.
            return error.retry_after_seconds * (1 + self._rng() / 2)
        longest = growing_pause(self._count - 1, self._retries.initial_delay, self._retries.max_delay)
        return longest * (1 - self._rng() / 2)

    def _remaining(self) -> float | None:
        return None if self._deadline is None else self._deadline - self._clock()

    def _final(self, error: VisionSplitError) -> VisionSplitError:
        if self._count == 1:
            return error
        text = f"{error} (after {self._count} attempts)"
        if isinstance(error, OverloadedError):
            return OverloadedError(text, error.retry_after_seconds)
        if isinstance(error, UnreachableError):
            return UnreachableError(text, error.address)
        return type(error)(text)
