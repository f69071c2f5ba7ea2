"""When a call is refused, and when to ask again. docs/admission.md explains the rule and works an example."""

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
_UNKNOWN_SECONDS = 1.0
# A call may spend this part of its time on waiting; the rest is left for its own work, of which nothing is known yet.
PATIENCE = 0.75
# After such a pause old measurements say little about the present: another model's work beside it may have ended.
_FORGET_SECONDS = 30.0
_MOST_SAMPLES = 512
_RETURNING = 8  # an eighth of the limit is expected back at once


class _Sample(NamedTuple):
    seconds: float  # since the departure before, or since the thing became busy
    amount: int  # that left


class Drain:
    """How quickly something serves what waits for it, measured only while it has enough to do."""

    def __init__(self, at_once: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            at_once: the amount that is served in parallel.
            clock: the time in seconds.
        """
        self.at_once = at_once
        self._clock = clock
        self._samples: deque[_Sample] = deque(maxlen=_MOST_SAMPLES)
        self._since: float | None = None  # of the last departure, or when it became busy; None while it is not busy
        self._idle_since = clock()

    def watch(self, *, busy: bool) -> None:
        """Say whether there is enough to do from now on."""
        now = self._clock()
        if not busy:
            if self._since is not None:
                self._since, self._idle_since = None, now
        elif self._since is None:
            self._since = now
            if now - self._idle_since > _FORGET_SECONDS:
                self._samples.clear()

    def note(self, amount: int, *, busy: bool) -> None:
        """Say that `amount` has been served just now, and whether there is still enough to do."""
        now = self._clock()
        if self._since is not None:
            self._samples.append(_Sample(now - self._since, amount))
            self._since = now
        self.watch(busy=busy)

    def seconds_for(self, amount: int) -> float:
        """Estimated seconds until `amount` has been served, from departures and from the silence since the last one.

        While few departures have been seen, the estimate is a lower bound: what is in service is counted as served.
        """
        seconds, served, longest = self._recent(amount)
        silence = 0.0 if self._since is None else self._clock() - self._since
        if served < 2 * self.at_once:
            return amount * (seconds + silence) / (served + self.at_once)
        # A silence is news only once it is longer than those seen before: batches leave together.
        return amount * (seconds + max(silence - longest, 0.0)) / served

    def retry_after(self, amount: int) -> float:
        """Seconds after which there should be room for `amount` again, from departures alone: while nothing leaves,
        it does not grow, and what was never measured is asked again soon."""
        seconds, served, _ = self._recent(amount)
        return limited(amount * seconds / served if served else _UNKNOWN_SECONDS)

    def _recent(self, amount: int) -> tuple[float, int, float]:
        """Of the last departures, as much as is to be foretold: seconds, amount, and the longest interval."""
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
    """A time after which to ask again, kept within sensible bounds."""
    return min(max(seconds, _SHORTEST_SECONDS), _LONGEST_SECONDS)


def refuse_late(wait: float, time_remaining: float | None, patience: float = PATIENCE) -> None:
    """Refuse a call whose turn would come too late.

    Args:
        wait: the estimated seconds until its turn.
        time_remaining: seconds until the caller gives up; None if it waits as long as it takes.
        patience: the part of that time that the call may wait.

    Raises:
        OverloadedError: with the time after which the wait should be short enough.
    """
    if time_remaining is None or wait <= patience * time_remaining:
        return
    raise OverloadedError(
        f"this call's turn would come in about {wait:.1f} seconds, and its deadline is in {time_remaining:.1f} seconds",
        limited(wait - patience * time_remaining),
    )


class Line:
    """The way to something that serves a few calls at a time: callers take turns. Used from one event loop."""

    def __init__(self, at_once: int, *, share: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            at_once: calls that are served in parallel; see `resize`.
            share: the part of the places that one caller may have. Places are added until that part is
                `at_once`: a caller that is alone loses nothing, and others find the rest free.
            clock: the time in seconds.
        """
        self._share = share
        self._gate = FairGate()
        self._drain = Drain(at_once, clock)
        self.resize(at_once)

    @property
    def _busy(self) -> bool:
        return self._gate.inside >= self._drain.at_once

    @property
    def waiting(self) -> int:
        """How many calls wait for their turn."""
        return len(self._gate)

    def resize(self, at_once: int) -> None:
        """Change how many calls are served in parallel."""
        self._drain.at_once = at_once
        self._gate.resize(math.ceil(at_once / self._share), own_places=at_once)
        self._drain.watch(busy=self._busy)

    def seconds_to_wait(self, caller: str) -> float:
        """How long a call that came now would wait for its turn. While fewer calls are here than are served at once,
        that is 0."""
        if self._gate.has_place(caller):
            return 0.0
        return self._drain.seconds_for(self._gate.ahead_of(caller) + 1)

    @asynccontextmanager
    async def turn(self, caller: str) -> AsyncIterator[None]:
        """Wait for a turn, and keep it until the call has been served; leaving by an error means that it was not."""
        try:
            async with self._gate.place(caller):
                self._drain.watch(busy=self._busy)
                yield
            self._drain.note(1, busy=self._busy)
        finally:
            self._drain.watch(busy=self._busy)


class CallPlaces:
    """Places for calls: a limit, and each caller's part of it. Used from one event loop."""

    def __init__(self, max_calls: int, *, share: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._shares = Shares(max_calls, share)
        self._drain = Drain(clock=clock)

    @property
    def active(self) -> int:
        return self._shares.taken

    @contextmanager
    def call(self, caller: str) -> Iterator[None]:
        """Hold a place for the length of a call.

        Raises:
            OverloadedError: of `check`.
        """
        self.check(caller)
        self._shares.take(caller, 1)
        try:
            yield
            # Only what was served: refusals and deadlines are quicker.
            self._drain.note(1, busy=self._busy)
        finally:
            self._shares.give_back(caller, 1)
            self._drain.watch(busy=self._busy)

    def check(self, caller: str) -> None:
        """
        Raises:
            OverloadedError: all places are taken, or all that the caller or its address may have; with the time after
                which to ask again.
        """
        if (part := self._shares.used_up(caller, 1)) is None:
            return
        # Not one place but several: those who are sent away would otherwise all come back for the first.
        later = self._drain.retry_after(max(self._shares.limit // _RETURNING, 1))
        raise OverloadedError(f"{part.held} calls{part.of} are running, and no more are accepted", later)

    @property
    def _busy(self) -> bool:
        return 2 * self.active > self._shares.limit


class OpenDoor:
    """Lets calls in until the service stops, and knows when the last of them has left. Used from one event loop."""

    def __init__(self, closed: str) -> None:
        """`closed` is what callers are told once it is."""
        self._text = closed
        self._closed = False
        self._inside = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The length of a call, refused ones included: their callers read a status, which takes a moment.

        Raises:
            UnavailableError: closed.
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
        """Let nobody in from now on, and wait for those inside, at most `grace` seconds; whether none is left."""
        self._closed = True
        if grace:
            try:
                async with asyncio.timeout(grace):
                    await self._idle.wait()
            except TimeoutError:
                return False
        return not self._inside
