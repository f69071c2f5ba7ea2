"""Runs a batch job from listing its input to writing its last part."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Generic

from visionsplit_batch.errors import RefusedRunError, TooManyFailuresError
from visionsplit_batch.job.assembly import Assembly
from visionsplit_batch.job.parts import ROWS_PER_PART, Part, cut
from visionsplit_batch.job.saved_progress import RunFolder
from visionsplit_batch.rows.part_state import PartState, RunTotals
from visionsplit_batch.rows.rows import Failure, Outcome, Slice, Source
from visionsplit_batch.runners import Runner
from visionsplit_batch.sinks import Item, Sink

_log = logging.getLogger(__name__)

# If none of the first rows succeeds, the fault is likely in the job and not in the rows. A limit that the user sets
# replaces this one.
_FIRST_ROWS = 100


@dataclass(frozen=True)
class JobOptions:
    """How the work is divided. Only the first option affects what is written."""

    rows_per_part: int = ROWS_PER_PART
    rows_per_slice: int = 16
    retry_errors: bool = False  # whether to retry the rows that failed in earlier runs
    max_failures: int | None = None  # the run ends if more rows fail; None ends it if all of its first rows fail


@dataclass(frozen=True)
class Counts:
    """The progress of a job."""

    total: int  # rows of the input
    before: int = 0  # done by earlier runs
    answered: int = 0  # by this run
    failed: int = 0  # in this run
    tokens_before: int = 0  # of the rows that this run answered: vision tokens without compression
    tokens_after: int = 0
    seconds: float = 0.0  # since this run started its first row
    first_seconds: float | None = None  # part of these, until its first row was done: models are loaded then

    def plus(self, **more: int) -> "Counts":
        """These counts with larger numbers."""
        return replace(self, **{name: getattr(self, name) + number for name, number in more.items()})

    @property
    def ended(self) -> int:
        """The number of rows that this run has finished."""
        return self.answered + self.failed

    @property
    def rows_per_second(self) -> float:
        return self.ended / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimated remaining seconds at the present rate; None before there is one."""
        left = self.total - self.before - self.ended
        return left / self.rows_per_second if self.rows_per_second else None


@dataclass(frozen=True)
class JobSummary:
    """What this run and earlier ones have written to the folder."""

    counts: Counts
    held: RunTotals


class Job(Generic[Item]):
    """One run of a job. `run` may be called once."""

    def __init__(
        self,
        source: Source,
        runner: Runner,
        folder: RunFolder,
        sink: Sink[Item],
        options: JobOptions,
        *,
        total: int,
        on_progress: Callable[[Counts], None],
    ) -> None:
        """
        Args:
            source: the input.
            runner: does the work.
            folder: the opened output folder.
            sink: how results are stored.
            options: how the work is divided.
            total: the number of rows of the input.
            on_progress: called after every row.
        """
        self._source = source
        self._runner = runner
        self._folder = folder
        self._sink = sink
        self._options = options
        self._on_progress = on_progress
        self._assembly = Assembly(folder, sink, self._committed)
        self._counts = Counts(total)
        self._started: float | None = None
        self._first_failure: Failure | None = None

    def run(self) -> JobSummary:
        """Do the remaining work. However the run ends, the list of errors is written and finished parts are kept.

        Raises:
            InputError: the input cannot be listed.
            RefusedRunError: the input differs from the one that the run was started with.
            OutputError, OSError: the output cannot be written.
            TooManyFailuresError: too many rows failed.
            VisionSplitError: the services cannot continue.
        """
        self._folder.check_rows(math.ceil(self._counts.total / self._options.rows_per_part))
        try:
            for outcome in self._runner.run(self._slices()):
                self._take(outcome)
        finally:
            self._assembly.close()
            held = self._folder.write_errors(self._sink.failure_line)
        return JobSummary(self.counts, held)

    @property
    def counts(self) -> Counts:
        elapsed = 0.0 if self._started is None else time.monotonic() - self._started
        return replace(self._counts, seconds=elapsed)

    def _slices(self) -> Iterator[Slice]:
        """The remaining work. The runner iterates whenever it has room."""
        for part in cut(self._source.entries(), self._options.rows_per_part):
            state = self._folder.intact(part.number)
            if state is not None:
                _check_same(part, state, self._folder)
            if state is not None and not (state.failed and self._options.retry_errors):
                self._note_before(len(part.entries))
                continue
            remaining = self._assembly.begin(part, state)
            self._note_before(len(part.entries) - len(remaining))
            self._started = self._started or time.monotonic()
            yield from part.slices(remaining, self._options.rows_per_slice)

    def _note_before(self, rows: int) -> None:
        self._counts = self._counts.plus(before=rows)
        self._on_progress(self.counts)

    def _take(self, outcome: Outcome) -> None:
        if self._counts.first_seconds is None:
            self._counts = replace(self._counts, first_seconds=self.counts.seconds)
        ended = self._assembly.add(outcome)
        if isinstance(ended, Failure):
            self._counts = self._counts.plus(failed=1)
            self._first_failure = self._first_failure or ended
            _log.info("%s: %s", outcome.id, ended.message)
            self._check_failures(self._first_failure)
        else:
            self._counts = self._counts.plus(answered=1, tokens_before=ended[0], tokens_after=ended[1])
        self._on_progress(self.counts)

    def _check_failures(self, first: Failure) -> None:
        limit, counts = self._options.max_failures, self._counts
        if limit is not None and counts.failed > limit:
            raise TooManyFailuresError(
                f"{counts.failed} rows failed, more than --max-failures {limit}; the first: {first.message}"
            )
        if limit is None and counts.failed >= _FIRST_ROWS and not (counts.answered or counts.before):
            raise TooManyFailuresError(
                f"all of the first {counts.failed} rows failed; --max-failures N continues until more than N rows have "
                f"failed; the first: {first.message}"
            )

    def _committed(self, state: PartState) -> None:
        _log.info("part %d is written: %d rows, %d failed", state.number, state.written, len(state.failed))


def _check_same(part: Part, state: PartState, folder: RunFolder) -> None:
    if part.digest != state.digest:
        first = part.entries[0].id
        raise RefusedRunError(
            f"the input differs from the one with which {folder.location} was begun: part {part.number}, which begins "
            f"with row {part.start} ({first!r}), has other rows now; give a new folder"
        )
