"""JSON objects, one a line."""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

import pyarrow as pa

from visionsplit_batch.errors import InputError
from visionsplit_batch.rows import Content, Entry
from visionsplit_batch.sources.base import RowSource
from visionsplit_batch.sources.files import readable
from visionsplit_batch.sources.inputs import Found, Inputs
from visionsplit_batch.sources.pictures import Pictures
from visionsplit_batch.sources.table import Columns, row_id
from visionsplit_batch.storage import Storage, parent

_ROWS_LOOKED_AT = 100  # for the columns
_IMAGES_IN_LINE = 8  # of the largest allowed, that a line has room for


class JsonLinesSource(RowSource[pa.NativeFile]):
    """JSON lines. The place is a line's offset and length in bytes, and its number, from 1.

    The id is that of the column for it, or "line 17" (with the file's name, where the input is not one file). A line
    whose id or JSON is broken has such an id too, and fails when it is read. Empty lines are left out.
    """

    format = "jsonl"
    suffixes = frozenset({".jsonl", ".ndjson"})
    id_column: str | None

    def __init__(self, inputs: Inputs, pictures: Pictures, columns: Columns) -> None:
        """Raises InputError if the first rows do not have the columns."""
        super().__init__(inputs, pictures)
        self._max_line = _IMAGES_IN_LINE * pictures.limits.max_image_bytes
        self._one_file = inputs.single_file
        self._set_columns(columns)

    def _set_columns(self, columns: Columns) -> None:
        names: set[str] = set()
        for row in islice(self._rows(), _ROWS_LOOKED_AT):
            names |= row.keys()
        if not names:
            raise InputError(f"no line of {', '.join(self.inputs.locations)} is a JSON object with columns")
        self._columns = columns.found_in(names, ", ".join(self.inputs.locations))
        self.id_column = columns.id

    def options(self) -> Mapping[str, Any]:
        return {"columns": self._columns.settings()}

    def list_rows(self) -> Iterator[Entry]:
        for found, place, line in self._lines():
            yield Entry(self._id(found, place, line), found.location, place)

    def where(self, entry: Entry) -> str:
        return f"line {entry.place[2]} of {readable(entry.path)}"

    def open_file(self, path: str) -> AbstractContextManager[pa.NativeFile]:
        file: AbstractContextManager[pa.NativeFile] = self.inputs.storage.open(path)
        return file

    def read_row(self, file: pa.NativeFile, entry: Entry) -> Content:
        offset, length, _ = entry.place
        if length > self._max_line:
            raise ValueError(f"the line has {length} bytes, more than the {self._max_line} that are read")
        file.seek(offset)
        return self.content(parse_row(file.read(length)), parent(entry.path))

    def content(self, row: Mapping[str, Any], folder: str) -> Content:
        return self._columns.content(row, self.pictures, folder)

    def _id(self, found: Found, place: tuple[int, int, int], line: bytes) -> str:
        if self.id_column is not None:
            try:
                return row_id(parse_row(line).get(self.id_column), self.id_column)
            except ValueError:
                pass  # the row fails with it when it is read
        number = f"line {place[2]}"
        return number if self._one_file else f"{readable(found.name)} {number}"

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        for _, _, line in self._lines():
            try:
                row = parse_row(line)
            except ValueError:
                continue  # this is only a look at the first sound rows
            yield row

    def _lines(self) -> Iterator[tuple[Found, tuple[int, int, int], bytes]]:
        for found in self.inputs.files(self.suffixes):
            try:
                for place, line in read_lines(self.inputs.storage, found.location, self._max_line):
                    yield found, place, line
            except OSError as error:
                raise InputError(f"{found.location} cannot be read: {error}") from error


def read_lines(storage: Storage, location: str, longest: int) -> Iterator[tuple[tuple[int, int, int], bytes]]:
    """Each line that is not empty: its offset, length and number, and its bytes. Of a longer one only its beginning."""
    offset = 0
    number = 0
    opened: Any = storage.open(location)  # io.RawIOBase in all but name
    with io.BufferedReader(opened, 1 << 18) as file:
        while line := file.readline(longest):
            number += 1
            length = len(line)
            while not line.endswith(b"\n") and length >= longest and (rest := file.readline(longest)):
                length += len(rest)
                if rest.endswith(b"\n"):
                    break
            if line.strip():
                yield (offset, length, number), line
            offset += length


def parse_row(line: bytes) -> Mapping[str, Any]:
    """The object on a line.

    Raises:
        ValueError: it is none.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the line is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"the line is no JSON object, it begins with {line[:20]!r}")
    return row
