"""Reports a job's progress, to people and to schedulers."""

import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from tqdm import tqdm

from visionsplit_batch.job.job import Counts
from visionsplit_batch.job.summary import counts_json, duration
from visionsplit_batch.runners import StageUse

_STAGES_SECONDS = 2.0  # shares over a shorter time than a batch takes would fluctuate
_LINE_SECONDS = 30.0
_EVENT_SECONDS = 10.0


class StageShares:
    """How busy each stage is: recently, and over the whole run."""

    def __init__(self, ask: Callable[[], Sequence[StageUse]]) -> None:
        self._ask = ask
        self._asked = time.monotonic()
        self._busy: dict[str, float] = {}  # integral of the share over time, in seconds
        self._seconds = 0.0
        self.lately: tuple[StageUse, ...] = ()

    def refresh(self, *, force: bool = False) -> None:
        """Query the stages, unless they were queried within the last two seconds."""
        now = time.monotonic()
        if now - self._asked < _STAGES_SECONDS and not force:
            return
        self.lately = tuple(self._ask())
        for use in self.lately:
            self._busy[use.name] = self._busy.get(use.name, 0.0) + use.busy * (now - self._asked)
        self._seconds += now - self._asked
        self._asked = now

    @property
    def overall(self) -> dict[str, float]:
        """Shares by stage since the start."""
        return {name: busy / self._seconds for name, busy in self._busy.items()} if self._seconds else {}


class Progress:
    """Receives progress updates; this class reports nothing."""

    def update(self, counts: Counts) -> None:
        """Called after every row."""

    def close(self) -> None:
        """Called when the job has ended, successfully or not."""


class Bar(Progress):
    """A progress bar in a terminal."""

    def __init__(self, shares: StageShares, total: int, stream: TextIO = sys.stderr) -> None:
        self._shares = shares
        self._bar: tqdm[Any] = tqdm(total=total, unit="image", file=stream, dynamic_ncols=True, smoothing=0.05)

    def update(self, counts: Counts) -> None:
        before = counts.before - self._bar.initial
        if before > 0:  # rows of earlier runs must not count in the rate
            self._bar.initial += before
            self._bar.n += before
            self._bar.last_print_n += before
        self._shares.refresh()
        self._bar.set_postfix_str(_state(counts, self._shares.lately), refresh=False)
        self._bar.update(counts.before + counts.ended - self._bar.n)

    def close(self) -> None:
        self._bar.close()


class _PeriodicLine(Progress, ABC):
    """Prints a line at intervals."""

    def __init__(self, shares: StageShares, stream: TextIO, seconds: float) -> None:
        self._shares = shares
        self._stream = stream
        self._seconds = seconds
        self._next = time.monotonic() + seconds

    def update(self, counts: Counts) -> None:
        self._shares.refresh()
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._seconds
        print(self._line(counts, self._shares.lately), file=self._stream, flush=True)

    @abstractmethod
    def _line(self, counts: Counts, stages: Sequence[StageUse]) -> str: ...


class Lines(_PeriodicLine):
    """Prints lines for people who read a log."""

    def __init__(self, shares: StageShares, stream: TextIO = sys.stderr) -> None:
        super().__init__(shares, stream, _LINE_SECONDS)

    def _line(self, counts: Counts, stages: Sequence[StageUse]) -> str:
        done = counts.before + counts.ended
        rate = f"{counts.rows_per_second:.2f} images/s, {duration(counts.seconds_left)} left"
        return f"{done} of {counts.total} images, {rate}, {_state(counts, stages)}"


class Events(_PeriodicLine):
    """Prints JSON for schedulers, one object per line."""

    def __init__(self, shares: StageShares, stream: TextIO) -> None:
        super().__init__(shares, stream, _EVENT_SECONDS)

    def _line(self, counts: Counts, stages: Sequence[StageUse]) -> str:
        uses = {use.name: {"places": use.places, "busy": use.busy, "rows": use.rows} for use in stages}
        return json.dumps({"event": "progress", **counts_json(counts), "stages": uses})


def _state(counts: Counts, stages: Sequence[StageUse]) -> str:
    parts = []
    if counts.tokens_before:
        parts.append(f"{counts.tokens_after / counts.tokens_before:.1%} of tokens kept")
    if counts.failed:
        parts.append(f"{counts.failed} failed")
    if stages:
        parts.append(", ".join(f"{use.name} {use.busy:.0%}" for use in stages))
    return ", ".join(parts)
