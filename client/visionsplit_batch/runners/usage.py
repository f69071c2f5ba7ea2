"""Counts how much of their time the stages are busy."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from visionsplit_batch.runners.base import Stage, StageUse


class StageClock:
    """Seconds of work by stage, and where the rows are. Thread-safe."""

    def __init__(self, places: Mapping[Stage, int]) -> None:
        self._places = dict(places)
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(places, 0.0)
        self._rows = dict.fromkeys(places, 0)
        self._asked = time.monotonic()

    def worked(self, stage: Stage, seconds: float) -> None:
        """Record that one place of a stage was in use for some seconds."""
        with self._lock:
            self._seconds[stage] += seconds

    def move(self, rows: int, *, out: Stage | None = None, into: Stage | None = None) -> None:
        """Record that rows go from one stage to the next; None is outside."""
        with self._lock:
            if out is not None:
                self._rows[out] -= rows
            if into is not None:
                self._rows[into] += rows

    @contextmanager
    def working(self, stage: Stage) -> Iterator[None]:
        """Count the time inside the block as work."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.worked(stage, time.monotonic() - started)

    def take_seconds(self) -> Mapping[Stage, float]:
        """The seconds of work in each stage since the last call."""
        with self._lock:
            seconds, self._seconds = self._seconds, dict.fromkeys(self._places, 0.0)
            return seconds

    def clear(self) -> None:
        """Record that no row is in any stage."""
        with self._lock:
            self._rows = dict.fromkeys(self._places, 0)

    def take(self) -> tuple[StageUse, ...]:
        """The use of each stage since the last call. Work counts when it ends, so shares of short spans are off."""
        with self._lock:
            now = time.monotonic()
            elapsed, self._asked = max(now - self._asked, 1e-3), now
            uses = tuple(
                StageUse(name, places, min(self._seconds[name] / (places * elapsed), 1.0), self._rows[name])
                for name, places in self._places.items()
            )
            self._seconds = dict.fromkeys(self._places, 0.0)
            return uses
