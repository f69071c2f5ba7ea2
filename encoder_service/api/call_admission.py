"""Limits calls, and refuses calls whose first text would come too late."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from visionsplit.serving.fairness import Shares
from visionsplit.serving.overload import CallGate, CallPlaces, ServiceRate, refuse_late

_UNBOUNDED = 2**31
_TEXTS_AT_ONCE = 16  # fewer calls without text than this fit into the batches of the device and of the engine
# The estimate covers a call's own encoding and prefill beside its waiting, so more of the time must be left than where
# only waiting counts: half of it is for the answer.
_PATIENCE = 0.5


class Admission:
    """Accepts calls up to a limit, and none while draining. Used from one event loop."""

    def __init__(self, max_calls: int, *, caller_share: float = 1.0) -> None:
        self.gate = CallGate("the encoder is draining")
        self._places = CallPlaces(max_calls, share=caller_share)
        self.answers = AnswerQueue()

    @property
    def active(self) -> int:
        """The number of calls that hold a place."""
        return self._places.active

    @contextmanager
    def call(self, caller: str = "") -> Iterator[None]:
        """Hold a place for the length of a call.

        Raises:
            UnavailableError: draining.
            OverloadedError: of `CallPlaces.call`.
        """
        with self.gate.inside(), self._places.call(caller):
            yield


class AnswerQueue:
    """Generate calls that have no text yet. Used from one event loop.

    They wait in two services, one after the other. This counts both: the tiles' queue alone does not tell how busy the
    language model is, and the LLM service does not know how long a call has yet to wait for the device.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._waiting = Shares(_UNBOUNDED, 1.0)
        self._rate = ServiceRate(_TEXTS_AT_ONCE, clock)

    @property
    def waiting(self) -> int:
        """Calls without text."""
        return self._waiting.taken

    @contextmanager
    def call(self, caller: str, time_remaining: float | None) -> Iterator[Callable[[], None]]:
        """Hold a place in the queue until the returned function is called, at the first text, or the call ends.

        Args:
            caller: whose call it is.
            time_remaining: seconds until the caller's deadline; None without one.

        Raises:
            OverloadedError: the first text would come too late.
        """
        if self._busy:
            refuse_late(self._rate.seconds_for(self._waiting.ahead_of(caller, 1) + 1), time_remaining, _PATIENCE)
        self._waiting.take(caller, 1)
        self._rate.watch(busy=self._busy)
        waits = True

        def answered() -> None:
            nonlocal waits
            if waits:
                waits = False
                self._waiting.give_back(caller, 1)
                self._rate.record(1, busy=self._busy)

        try:
            yield answered
        finally:
            if waits:
                self._waiting.give_back(caller, 1)
                self._rate.watch(busy=self._busy)

    @property
    def _busy(self) -> bool:
        return self._waiting.taken >= _TEXTS_AT_ONCE
