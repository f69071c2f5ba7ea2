"""Decides when a call is refused and when to retry. docs/admission.md explains the rule with a worked example."""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple

from visionsplit.errors import OverloadedError, UnavailableError
from visionsplit.serving.fairness import FairGate, Shares

_SHORTEST_SECONDS = 0.1
_LONGEST_SECONDS = 60.0
_UNKNOWN_SECONDS = 1.0  # the time that callers get when nothing has been measured yet
# The share of a call's remaining time that it may spend waiting. The rest is left for its own work, whose duration is
# unknown. With 10 seconds left, a call is admitted if its turn comes in 7.5 seconds or less.
PATIENCE = 0.75
# Measurements from before such a long idle time say little about the present: another model may have shared the device.
_FORGET_SECONDS = 30.0
_MOST_SAMPLES = 512
# Refused callers are sent back when an eighth of the limit should be free. With the time for a single place, all of
# them would return for the same one.
_RETURNING = 8


class _Sample(NamedTuple):
    seconds: float  # since the previous departure, or since the service became busy
    amount: int  # served


class ServiceRate:
    """The rate at which a service processes what waits for it, measured only while it is busy."""

    def __init__(self, at_once: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            at_once: the amount that is served in parallel.
            clock: the time in seconds.
        """
        self.at_once = at_once
        self._clock = clock
        self._samples: deque[_Sample] = deque(maxlen=_MOST_SAMPLES)
        self._since: float | None = None  # time of the last departure, or of becoming busy; None while not busy
        self._idle_since = clock()

    def watch(self, *, busy: bool) -> None:
        """Report whether the service has enough work from now on."""
        now = self._clock()
        if not busy:
            if self._since is not None:
                self._since, self._idle_since = None, now
        elif self._since is None:
            self._since = now
            if now - self._idle_since > _FORGET_SECONDS:
                self._samples.clear()

    def record(self, amount: int, *, busy: bool) -> None:
        """Record that `amount` has just been served, and whether there is still enough work."""
        now = self._clock()
        if self._since is not None:
            self._samples.append(_Sample(now - self._since, amount))
            self._since = now
        self.watch(busy=busy)

    def seconds_for(self, amount: int) -> float:
        """Estimated seconds until `amount` has been served, from departures and from the silence since the last one.

        While few departures have been seen, the estimate is a lower bound: the amount in service counts as served.
        """
        seconds, served, longest = self._recent(amount)
        silence = 0.0 if self._since is None else self._clock() - self._since
        if served < 2 * self.at_once:
            return amount * (seconds + silence) / (served + self.at_once)
        # Batches leave together, so a silence counts only as far as it exceeds the longest interval seen before.
        return amount * (seconds + max(silence - longest, 0.0)) / served

    def retry_after(self, amount: int) -> float:
        """Seconds after which there should be room for `amount` again, from departures alone: the value does not grow
        while nothing leaves, and is short if nothing has been measured."""
        seconds, served, _ = self._recent(amount)
        return limited(amount * seconds / served if served else _UNKNOWN_SECONDS)

    def _recent(self, amount: int) -> tuple[float, int, float]:
        """The latest departures, as much as is to be predicted: total seconds, amount, and the longest interval."""
        seconds, served, longest = 0.0, 0, 0.0
        wanted = max(amount, 4 * self.at_once)
        for sample in reversed(self._samples):
            seconds += sample.seconds
            served += sample.amount
            longest = max(longest, sample.seconds)
            if served >= wanted:
                break
        return seconds, served, longest


def limited(seconds: float) -> float:
    """Clamp a retry time to 0.1 to 60 seconds."""
    return min(max(seconds, _SHORTEST_SECONDS), _LONGEST_SECONDS)


def refuse_late(wait: float, time_remaining: float | None, patience: float = PATIENCE) -> None:
    """Refuse a call whose turn would come too late.

    Args:
        wait: the estimated seconds until its turn.
        time_remaining: seconds until the call's deadline; None without a deadline.
        patience: the share of that time that the call may wait.

    Raises:
        OverloadedError: with the time after which the wait should be short enough.
    """
    if time_remaining is None or wait <= patience * time_remaining:
        return
    raise OverloadedError(
        f"this call's turn would come in about {wait:.1f} seconds, and its deadline is in {time_remaining:.1f} seconds",
        limited(wait - patience * time_remaining),
    )


class ServiceQueue:
    """A queue for something that serves a few calls at a time: callers take turns. Used from one event loop."""

    def __init__(self, at_once: int, *, share: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            at_once: the number of calls served in parallel; see `resize`.
            share: the share of the places that one caller may have. Places are added until that share is `at_once`,
                so that a single caller loses nothing and others find the rest free.
            clock: the time in seconds.
        """
        self._share = share
        self._gate = FairGate()
        self._rate = ServiceRate(at_once, clock)
        self.resize(at_once)

    @property
    def _busy(self) -> bool:
        return self._gate.inside >= self._rate.at_once

    @property
    def waiting(self) -> int:
        """The number of calls that wait for their turn."""
        return len(self._gate)

    def resize(self, at_once: int) -> None:
        """Change the number of calls served in parallel."""
        self._rate.at_once = at_once
        self._gate.resize(math.ceil(at_once / self._share), own_places=at_once)
        self._rate.watch(busy=self._busy)

    def seconds_to_wait(self, caller: str) -> float:
        """How long a new call would wait for its turn. While fewer calls are present than are served at once, this is
        0."""
        if self._gate.has_place(caller):
            return 0.0
        return self._rate.seconds_for(self._gate.ahead_of(caller) + 1)

    @asynccontextmanager
    async def turn(self, caller: str) -> AsyncIterator[None]:
        """Wait for a turn and hold it until the call has been served; leaving with an exception means it was not."""
        try:
            async with self._gate.place(caller):
                self._rate.watch(busy=self._busy)
                yield
            self._rate.record(1, busy=self._busy)
        finally:
            self._rate.watch(busy=self._busy)


class CallPlaces:
    """Limits the number of calls, in total and per caller. Used from one event loop."""

    def __init__(self, max_calls: int, *, share: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._shares = Shares(max_calls, share)
        self._rate = ServiceRate(clock=clock)

    @property
    def active(self) -> int:
        return self._shares.taken

    @contextmanager
    def call(self, caller: str) -> Iterator[None]:
        """Hold a place for the duration of a call.

        Raises:
            OverloadedError: raised by `check`.
        """
        self.check(caller)
        self._shares.take(caller, 1)
        try:
            yield
            # Only served calls are recorded, since refusals and expired deadlines end sooner.
            self._rate.record(1, busy=self._busy)
        finally:
            self._shares.give_back(caller, 1)
            self._rate.watch(busy=self._busy)

    def check(self, caller: str) -> None:
        """Raise if a call of this caller would be refused.

        Raises:
            OverloadedError: all places are taken, or all that the caller or its address may have; states when to retry.
        """
        if (part := self._shares.used_up(caller, 1)) is None:
            return
        # The time until several places are free: with one place, all refused callers would come back for the same one.
        later = self._rate.retry_after(max(self._shares.limit // _RETURNING, 1))
        raise OverloadedError(f"{part.held} calls{part.of} are running, and no more are accepted", later)

    @property
    def _busy(self) -> bool:
        return 2 * self.active > self._shares.limit


class CallGate:
    """Admits calls until the service stops, and knows when the last one has ended. Used from one event loop."""

    def __init__(self, closed: str) -> None:
        """`closed` is the error's text for callers after the service has begun to stop."""
        self._text = closed
        self._closed = False
        self._inside = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Count a call for its duration, including refused calls: their callers take a moment to read the status.

        Raises:
            UnavailableError: the service is stopping.
        """
        self._inside += 1
        self._idle.clear()
        try:
            if self._closed:
                raise UnavailableError(self._text)
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._idle.set()

    async def drain(self, grace: float | None) -> bool:
        """Refuse calls from now on, and wait up to `grace` seconds for those inside; return whether all have ended."""
        self._closed = True
        if grace:
            try:
                async with asyncio.timeout(grace):
                    await self._idle.wait()
            except TimeoutError:
                return False
        return not self._inside
