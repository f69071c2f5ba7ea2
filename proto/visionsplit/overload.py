"""When to refuse a call, and when to ask again: both from how quickly calls end while there is enough to do."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from visionsplit.errors import OverloadedError, UnavailableError
from visionsplit.fairness import Shares

_SHORTEST_SECONDS = 0.1
_LONGEST_SECONDS = 60.0
_UNKNOWN_SECONDS = 1.0
_WEIGHT = 0.1  # of the newest interval in the average
_FEWEST_SAMPLES = 4
# A call that would take more than half of its time only to wait is refused: a queue as long as the time allows serves
# nobody sooner, and where the service slows down, all that is in it comes too late.
_PATIENCE = 0.5
# More calls at once may go through quicker, where batches have room: that they do not shows in how long calls take.
_LATE = 0.4
_RETURNING = 8  # an eighth of the limit is expected back at once
_BUSY_CALLS = 4  # from so many calls on, their ends tell how quickly the service works


class Drain:
    """How quickly something empties, measured only while it is busy: idle time says nothing about what it can do."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: float | None = None  # when something left last
        self._seconds_each = 0.0  # average
        self._samples = 0

    def note(self, amount: int, *, busy: bool) -> None:
        """So much has left just now."""
        now = self._clock()
        if not busy:
            self._last = None
            return
        if self._last is not None:
            seconds_each = (now - self._last) / amount
            weight = max(_WEIGHT, 1 / (self._samples + 1))
            self._seconds_each += weight * (seconds_each - self._seconds_each)
            self._samples += 1
        self._last = now

    def seconds_for(self, amount: int) -> float | None:
        """How long so much takes to leave; None while too little has been seen."""
        if self._samples < _FEWEST_SAMPLES:
            return None
        # Nothing may have left for a while: then it is slower than it was.
        since = 0.0 if self._last is None else self._clock() - self._last
        return amount * max(self._seconds_each, since / 2)

    def retry_after(self, amount: int) -> float:
        """Seconds after which there should be room for so much again."""
        seconds = self.seconds_for(amount)
        return min(max(_UNKNOWN_SECONDS if seconds is None else seconds, _SHORTEST_SECONDS), _LONGEST_SECONDS)


class CallPlaces:
    """Places for calls: a limit, each caller's part of it, and no place for a call that would only wait in vain.

    Used from one event loop.
    """

    def __init__(self, max_calls: int, *, share: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._shares = Shares(max_calls, share)
        self._drain = Drain(clock)
        self._clock = clock
        self._call_seconds = 0.0  # average of the calls that ended lately
        self._started: dict[object, float] = {}  # of the calls inside, the oldest first

    @property
    def active(self) -> int:
        return self._shares.taken

    @contextmanager
    def call(self, caller: str, time_remaining: float | None) -> Iterator[None]:
        """Hold a place for the length of a call.

        Args:
            caller: whose call it is.
            time_remaining: seconds until the caller gives up, if it said so.

        Raises:
            OverloadedError: with the time after which to ask again.
        """
        self._check(caller, time_remaining)
        self._shares.take(caller, 1)
        call, started = object(), self._clock()
        self._started[call] = started
        try:
            yield
            self._drain.note(1, busy=self._busy)  # only what was served: refusals and deadlines are quicker
        finally:
            del self._started[call]
            seconds = self._clock() - started
            self._call_seconds += 2 * _WEIGHT * (seconds - self._call_seconds)
            self._shares.give_back(caller, 1)

    @property
    def _busy(self) -> bool:
        return self.active >= _BUSY_CALLS

    def _check(self, caller: str, time_remaining: float | None) -> None:
        shares, active = self._shares, self.active
        # Not one place but several: those who are sent away would otherwise all come back for the first.
        later = self._drain.retry_after(max(shares.limit // _RETURNING, 1))
        if active >= shares.limit:
            raise OverloadedError(f"{active} calls are running, as many as this service takes", later)
        if not shares.fits_own(caller, 1):
            held = shares.held_by(caller)
            raise OverloadedError(f"{held} calls of this caller are running, as many as one caller may have", later)
        if not shares.fits(caller, 1):
            held = shares.held_at_address(caller)
            raise OverloadedError(f"{held} calls of this address are running, as many as one address may have", later)
        if time_remaining is None or not self._busy:
            return
        # Those that timed out, or will, count as well: where all do, nobody is served any more.
        late = max(self._call_seconds, self._clock() - next(iter(self._started.values())))
        if late < _LATE * time_remaining:
            return
        wait = self._drain.seconds_for(active + 1) or late
        if wait > _PATIENCE * time_remaining:
            raise OverloadedError(
                f"{active} calls are running; this one would take {wait:.1f} seconds and has {time_remaining:.1f}",
                min(max(wait - _PATIENCE * time_remaining, _SHORTEST_SECONDS), _LONGEST_SECONDS),
            )


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
