"""The interface of an output format, which keeps rows and writes those of one part to one file."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import IO, Any, ClassVar, Generic, TypeVar

from visionsplit_batch.rows.fields import Carry, plain_text
from visionsplit_batch.rows.part_state import FailedRow
from visionsplit_batch.rows.records import Record, RunLabels
from visionsplit_batch.rows.rows import Outcome
from visionsplit_batch.storage.storage import Storage

Item = TypeVar("Item")


class Sink(ABC, Generic[Item]):
    """Keeps a job's results until their part is complete, and writes parts. Equal rows give equal bytes, so a resumed
    run writes the same files as an uninterrupted one.

    Rows are written as a stream: no sink holds a part in memory.
    """

    suffix: ClassVar[str]  # of the parts' file names

    def __init__(self, storage: Storage, labels: RunLabels, carry: Carry = None) -> None:
        """
        Args:
            storage: writes the files.
            labels: the values that all rows of the run have in common.
            carry: the input's columns to copy to the output; None copies all of them.
        """
        self._storage = storage
        self._labels = labels
        self._carry = carry

    def write(self, location: str, rows: Iterable[Item]) -> None:
        """Write a part, completely or not at all. Rows come in the order of the input; there may be none.

        Raises:
            OSError: the file cannot be written.
            OutputError: the format cannot hold the part.
        """
        with self._storage.write_atomically(location) as file:
            self._write(file, rows)

    def failure_line(self, row: FailedRow) -> bytes:
        """A line of the list of errors for a row without an answer, in the format's form."""
        message = plain_text(row.failure.message)  # the message may quote a file name
        return json_line({"index": row.index, "id": plain_text(row.id), **asdict(row.failure), "message": message})

    @abstractmethod
    def item(self, outcome: Outcome) -> Item:
        """Convert the outcome of a row that did not fail.

        Raises:
            ValueError: the output cannot hold it.
        """

    @abstractmethod
    def tokens(self, items: Sequence[Item]) -> tuple[int, int]:
        """The vision tokens of these items before and after compression."""

    def to_json(self, item: Item) -> dict[str, Any] | None:
        """Convert an item for the journal; None if items are too large for it."""
        return None

    def from_json(self, stored: dict[str, Any]) -> Item:
        """Restore an item from the output of `to_json`."""
        raise NotImplementedError("such items have no journal")

    @abstractmethod
    def _write(self, file: IO[bytes], rows: Iterable[Item]) -> None: ...


class AnswersSink(Sink[Record]):
    """A format for rows with answers."""

    def item(self, outcome: Outcome) -> Record:
        return Record.of(outcome, self._labels, self._carry)

    def tokens(self, items: Sequence[Record]) -> tuple[int, int]:
        return sum(item.tokens_before for item in items), sum(item.tokens_after for item in items)

    def to_json(self, item: Record) -> dict[str, Any]:
        return item.to_json()

    def from_json(self, stored: dict[str, Any]) -> Record:
        return Record.from_json(stored)


def json_text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def json_line(value: Mapping[str, Any]) -> bytes:
    return json_text(value).encode() + b"\n"
