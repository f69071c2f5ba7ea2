"""Rows on their way through a cluster whose processes may end, perhaps because of a row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from visionsplit_batch.errors import BatchError
from visionsplit_batch.rows.rows import Slice

_ROWS = 4  # of one piece: few, since all of them are answered for together
# Rows that were lost twice are worked on one by one, with nothing else beside them. If a row is lost then as well,
# twice, the row is the reason: once may be a machine that went away at that moment.
_TOGETHER, _ALONE = 2, 2


class LostWorkerError(BatchError):
    """The process that worked on a row alone ended each time."""


@dataclass(frozen=True)
class Piece:
    """Neighbouring rows of one slice, which one call works on."""

    slice: Slice
    losses: int = 0  # how many times these rows came back without a result

    @property
    def rows(self) -> int:
        return len(self.slice.entries)

    @property
    def alone(self) -> bool:
        """Whether nothing else may run beside these rows."""
        return self.losses >= _TOGETHER

    @property
    def last_try(self) -> bool:
        """Whether rows that are lost now have failed."""
        return self.losses >= _TOGETHER + _ALONE - 1

    def lost(self, numbers: Sequence[int]) -> Iterator["Piece"]:
        """The next tries for those of these rows that were lost."""
        groups = [numbers] if self.losses + 1 < _TOGETHER else [[number] for number in numbers]
        for group in groups:
            yield Piece(_only(self.slice, group), self.losses + 1)


def cut_into_pieces(slices: Iterator[Slice]) -> Iterator[Piece]:
    """All rows, a few at a time; slices are pulled as they are needed."""
    for one in slices:
        for start in range(0, len(one.entries), _ROWS):
            yield Piece(_only(one, range(start, min(start + _ROWS, len(one.entries)))))


def _only(one: Slice, numbers: Sequence[int]) -> Slice:
    return Slice(one.part, tuple(one.indices[n] for n in numbers), tuple(one.entries[n] for n in numbers))
