"""JSON objects, one per line, or in an array."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing
from itertools import islice
from typing import Any, ClassVar

from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.rows import Content, Entry
from visionsplit_batch.sources.base import RowSource
from visionsplit_batch.sources.files import readable
from visionsplit_batch.sources.image_reader import ImageReader
from visionsplit_batch.sources.inputs import Found, Inputs, reading
from visionsplit_batch.sources.json_rows import is_array, json_rows, parse_row
from visionsplit_batch.sources.table import Columns, row_id
from visionsplit_batch.sources.text import Place, TextFile, open_text
from visionsplit_batch.storage.storage import parent

_ROWS_LOOKED_AT = 100  # for choosing the column of images
_IMAGES_IN_ROW = 8  # how many images of the largest size a row has room for


class JsonLinesSource(RowSource[TextFile]):
    """JSON lines. The place is a row's offset and length in bytes, and its number.

    A file with an array of objects is read as well: the content decides, not the name. The id is the value of the id
    column, or "line 17", counted from 1, or in an array "row 17", counted from 0 (with the file's name if the input is
    not a single file). A row whose id or JSON is malformed also has such an id, and fails when it is read. Empty lines
    are skipped.
    """

    format = "jsonl"
    suffixes = frozenset({".jsonl", ".ndjson"})
    image_columns: ClassVar[tuple[str, ...]] = ()  # columns of the format, even if the first rows lack them
    id_column: str | None

    def __init__(self, inputs: Inputs, image_reader: ImageReader, columns: Columns) -> None:
        """Raises InputError if the first rows lack a column."""
        super().__init__(inputs, image_reader)
        self._max_row = _IMAGES_IN_ROW * image_reader.limits.max_image_bytes
        self._one_file = inputs.single_file
        self._set_columns(columns)

    def _set_columns(self, columns: Columns) -> None:
        samples: dict[str, list[Any]] = {}
        for row in islice(self._first_rows(), _ROWS_LOOKED_AT):
            for name, value in row.items():
                samples.setdefault(name, []).append(value)
        where = ", ".join(self.inputs.locations)
        if not samples:
            raise InputError(f"{where} contains neither a JSON object per line nor an array of objects")
        self._columns = columns.found_in({name: [] for name in self.image_columns} | samples, where)
        self.known_columns = self._columns.others(samples)
        self.id_column = columns.id

    def options(self) -> Mapping[str, Any]:
        return {"columns": self._columns.settings()}

    def list_rows(self) -> Iterator[Entry]:
        for found in self.files():
            kind = "row" if self._is_array(found) else "line"
            before = kind if self._one_file else f"{readable(found.name)} {kind}"
            for place, row, encoding in self._rows(found):
                yield Entry(self._id(row, encoding) or f"{before} {place[2]}", found.location, place)

    def where(self, entry: Entry) -> str:
        kind = "row" if is_array(self.inputs.storage, entry.path) else "line"
        return f"{kind} {entry.place[2]} of {readable(entry.path)}"

    def open_file(self, path: str) -> AbstractContextManager[TextFile]:
        return closing(open_text(self.inputs.storage, path))

    def read_row(self, file: TextFile, entry: Entry) -> Content:
        offset, length, _ = entry.place
        if length > self._max_row:
            raise ValueError(f"the line has {length} bytes, more than the {self._max_row} that are read")
        return self.content(parse_row(file.text(offset, length)), parent(entry.path))

    def content(self, row: Mapping[str, Any], folder: str) -> Content:
        return self._columns.content(row, self.image_reader, folder)

    def _id(self, row: bytes, encoding: str) -> str | None:
        if self.id_column is None:
            return None
        try:
            return row_id(parse_row(row, encoding).get(self.id_column), self.id_column)
        except ValueError:
            return None  # the row fails with this error when it is read

    def _first_rows(self) -> Iterator[Mapping[str, Any]]:
        for found in self.files():
            for _, row, encoding in self._rows(found):
                try:
                    parsed = parse_row(row, encoding)
                except ValueError:
                    continue  # only the first valid rows matter here
                yield parsed

    def _is_array(self, found: Found) -> bool:
        with reading(found):
            return is_array(self.inputs.storage, found.location)

    def _rows(self, found: Found) -> Iterator[tuple[Place, bytes, str]]:
        with reading(found):
            yield from json_rows(self.inputs.storage, found.location, self._max_row)


class JsonSource(JsonLinesSource):
    """Files named .json, which contain an array or, from some programs, lines."""

    format = "json"
    suffixes = frozenset({".json"})
