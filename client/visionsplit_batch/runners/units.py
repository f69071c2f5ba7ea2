"""What flows through Ray: a few rows of one slice at a time, as one row of a table."""

import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from visionsplit_batch.rows import Answers, Content, Failure, Outcome, Slice, Tokens
from visionsplit_batch.runners.base import Stage

Row = Content | Tokens | Answers | Failure  # as far as it is

_COLUMN = "unit"
_NOTHING = b""


@dataclass(frozen=True)
class Unit:
    """Neighbouring rows on their way through the stages."""

    number: int  # counted from the run's start
    slice: Slice
    rows: tuple[Row, ...] = ()  # one for each entry, once they are read
    seconds: Mapping[Stage, float] = field(default_factory=dict)  # that each stage took so far
    error: Exception | None = None  # that ends the job

    def after(self, stage: Stage, rows: Sequence[Row], started: float) -> "Unit":
        """This unit once a stage has worked on it since `started`, by `time.monotonic`."""
        seconds = {**self.seconds, stage: time.monotonic() - started}
        return Unit(self.number, self.slice, tuple(rows), seconds)

    def outcomes(self) -> Iterator[Outcome]:
        """One for each row that has been through all stages."""
        for index, entry, row in zip(self.slice.indices, self.slice.entries, self.rows, strict=True):
            if isinstance(row, Content):
                raise TypeError(f"row {entry.id!r} came out of the last stage unfinished")
            yield Outcome(self.slice.part, index, entry.id, row)


def pack(unit: Unit | None) -> pa.Table:
    """A table of one row. None stands for a unit that was finished before.

    Pickled by hand, because Ray would look into the values for columns of its own; it pickles all else it moves too.
    One row to a table is what keeps one unit to a task: Ray Data cuts tables between rows only.
    """
    content = _NOTHING if unit is None else pickle.dumps(unit, protocol=pickle.HIGHEST_PROTOCOL)
    return pa.table({_COLUMN: pa.array([content], pa.large_binary())})


def unpack(table: pa.Table) -> Unit | None:
    """What was packed by another process of the same run."""
    content = table[_COLUMN][0].as_buffer()
    if not content.size:
        return None
    unit = pickle.loads(content)
    if not isinstance(unit, Unit):
        raise TypeError(f"a table holds {type(unit).__name__}")
    return unit
