"""The interface of an output format, which writes the rows of one part to one file."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import IO, Any, ClassVar, Generic, TypeVar

from visionsplit_batch.rows.fields import plain_text
from visionsplit_batch.rows.part_state import FailedRow
from visionsplit_batch.storage.storage import Storage

Row = TypeVar("Row", contravariant=True)


class Sink(ABC, Generic[Row]):
    """Writes parts. Equal rows give equal bytes, so a resumed run writes the same files as an uninterrupted one.

    Rows are consumed as a stream: no sink holds a part in memory.
    """

    suffix: ClassVar[str]  # of the parts' file names

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def write(self, location: str, rows: Iterable[Row]) -> None:
        """Write a part, completely or not at all. Rows come in the order of the input; there may be none.

        Raises:
            OSError: the file cannot be written.
            OutputError: the format cannot hold the part.
        """
        with self._storage.write_atomically(location) as file:
            self._write(file, rows)

    def failure_line(self, row: FailedRow, run: str) -> bytes:
        """A line of the list of errors for a row without an answer, in the format's form.

        Args:
            row: the row.
            run: the run's fingerprint.
        """
        message = plain_text(row.failure.message)  # the message may quote a file name
        return json_line({"index": row.index, "id": plain_text(row.id), **asdict(row.failure), "message": message})

    @abstractmethod
    def _write(self, file: IO[bytes], rows: Iterable[Row]) -> None: ...


def json_text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def json_line(value: Mapping[str, Any]) -> bytes:
    return json_text(value).encode() + b"\n"
