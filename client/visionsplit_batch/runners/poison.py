"""Finds the row that brings its process down: Ray would give it to one process after the other for ever."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import ray

from visionsplit_batch.errors import BatchError
from visionsplit_batch.rows import Failure
from visionsplit_batch.runners.base import Stage
from visionsplit_batch.runners.feed import WHOLE

_R = TypeVar("_R")

# A process may also end for other reasons, such as a machine that goes away, while it happens to work on one row alone.
_TRIES_ALONE = 2


class LostWorkerError(BatchError):
    """The process that worked on a row alone ended each time."""


class Guarded(Generic[_R]):
    """A stage's work on units, by several threads of one process.

    The first time, a unit's rows are worked on together, beside other units. If the process ends, each unit that was in
    it comes again, and then its rows are worked on one by one with nothing beside them: what ends the process then is
    the row that is in it.
    """

    def __init__(self, stage: Stage, feed: Any) -> None:  # noqa: ANN401 - an actor's handle
        self._stage = stage
        self._feed = feed
        self._turns = _Turns()

    def work(self, number: int, rows: Sequence[_R], work: Callable[[Sequence[_R]], Sequence[Any]]) -> list[Any]:
        """The results of all rows; a Failure of a row that has ended its process."""
        if not self._before(number, WHOLE):
            with self._turns.shared():
                return list(work(rows))
        with self._turns.alone():
            return [self._one(number, index, row, work) for index, row in enumerate(rows)]

    def _one(self, number: int, index: int, row: _R, work: Callable[[Sequence[_R]], Sequence[Any]]) -> Any:  # noqa: ANN401
        times = self._before(number, index)
        if times < _TRIES_ALONE:
            result = work([row])[0]
            ray.get(self._feed.ended.remote(number, self._stage, index))
            return result
        error = LostWorkerError(f"the process that worked on this row alone ended, {times} times of {times}")
        return Failure.of(error, self._stage)

    def _before(self, number: int, row: int) -> int:
        # Waited for: the note must be there when this process is not any more.
        times: int = ray.get(self._feed.begin.remote(number, self._stage, row))
        return times


class _Turns:
    """Many together, or one alone. Who wants to be alone is not overtaken."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._together = 0
        self._wanting = 0
        self._is_alone = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not (self._is_alone or self._wanting))
            self._together += 1
        try:
            yield
        finally:
            with self._changed:
                self._together -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._wanting += 1
            self._changed.wait_for(lambda: not (self._is_alone or self._together))
            self._wanting -= 1
            self._is_alone = True
        try:
            yield
        finally:
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()
