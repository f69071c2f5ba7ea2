"""Equal services at several addresses: which one is asked next, and how long one that failed is left alone."""

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_MOST_DOUBLINGS = 30  # a larger exponent would only overflow


def growing_pause(failures: int, first: float, longest: float) -> float:
    """Seconds to wait after some failures in a row: `first`, then twice as long each time, at most `longest`.

    Args:
        failures: the number of failures before this one.
    """
    return min(first * 2.0 ** min(failures, _MOST_DOUBLINGS), longest)


class Backoff:
    """How long an address that failed is left alone. Not thread-safe.

    Args:
        first: seconds after the first failure; each further failure doubles them.
        longest: the most seconds.
        jitter: the largest share of the time that may be left out at random, so that callers who lost one service
            together do not come back together.
    """

    def __init__(
        self, first: float, longest: float, *, jitter: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._first, self._longest, self._jitter = first, longest, jitter
        self._clock = clock
        self._failures = 0
        self._until = 0.0  # by the clock

    @property
    def remaining(self) -> float:
        """Seconds until the address may be asked again; 0 if it may be asked now."""
        return max(self._until - self._clock(), 0.0)

    def failed(self) -> None:
        pause = growing_pause(self._failures, self._first, self._longest)
        self._until = self._clock() + pause * (1 - self._jitter * random.random())
        self._failures += 1

    def succeeded(self) -> None:
        self._failures, self._until = 0, 0.0


class Rotation(Generic[T]):
    """Members that take turns. Not thread-safe."""

    def __init__(self, members: Sequence[T]) -> None:
        self.members = tuple(members)
        self._next = 0

    def pick(self, key: Callable[[T], Any]) -> T:
        """The member with the smallest key; of several, the one whose turn comes first after the last one picked."""
        count = len(self.members)
        index = min(((self._next + offset) % count for offset in range(count)), key=lambda at: key(self.members[at]))
        self._next = (index + 1) % count
        return self.members[index]
