"""Divides the input into parts, each of which becomes one output file, and parts into slices."""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from visionsplit_batch.rows.rows import Entry, Slice

ROWS_PER_PART = 1000  # unless a job chooses another number

_T = TypeVar("_T")


@dataclass(frozen=True)
class Part:
    """Consecutive entries of the input. The number identifies the part as long as the input is the same."""

    number: int
    start: int  # index of the first entry in the whole input
    entries: tuple[Entry, ...]

    @property
    def indices(self) -> range:
        return range(self.start, self.start + len(self.entries))

    @property
    def digest(self) -> str:
        """Hash of the entries' ids and locations: equal in another run if the input is the same."""
        rows = [(entry.id, entry.path, entry.place) for entry in self.entries]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:32]

    def slices(self, indices: Collection[int], rows: int) -> Iterator[Slice]:
        """The entries with these indices, in groups of `rows`."""
        wanted = ((index, entry) for index, entry in zip(self.indices, self.entries, strict=True) if index in indices)
        for group in _grouped(wanted, rows):
            yield Slice(self.number, tuple(index for index, _ in group), tuple(entry for _, entry in group))


def cut(entries: Iterable[Entry], rows: int) -> Iterator[Part]:
    """Parts of `rows` rows, the last one with fewer; a stream, like the entries."""
    start = 0
    for number, group in enumerate(_grouped(entries, rows)):
        yield Part(number, start, group)
        start += len(group)


def _grouped(items: Iterable[_T], size: int) -> Iterator[tuple[_T, ...]]:
    remaining = iter(items)
    while group := tuple(islice(remaining, size)):
        yield group
