"""Tables as CSV and TSV text, with the columns' names in the first row."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.rows import Content, Entry
from visionsplit_batch.sources.base import RowSource
from visionsplit_batch.sources.delimited_rows import DelimitedRow, delimited_rows, delimiter_of, values_of
from visionsplit_batch.sources.files import readable
from visionsplit_batch.sources.image_reader import ImageReader
from visionsplit_batch.sources.inputs import Found, Inputs, reading
from visionsplit_batch.sources.table import Columns, distinct, id_or
from visionsplit_batch.sources.text import TextFile, decoded, open_text, read_lines
from visionsplit_batch.storage.storage import Storage, parent

_ROWS_LOOKED_AT = 100  # for choosing the column of images
_IMAGES_IN_ROW = 2  # how many images of the largest size, as base64 text, a row has room for


@dataclass(frozen=True)
class Header:
    """The first row of a file."""

    delimiter: str
    names: tuple[str, ...]

    def row(self, values: list[str]) -> Mapping[str, Any]:
        """The values by column name.

        Raises:
            ValueError: their number differs from that of the columns.
        """
        if len(values) != len(self.names):
            raise ValueError(f"the row has {len(values)} values, the file {len(self.names)} columns")
        return dict(zip(self.names, values, strict=True))


@dataclass(frozen=True)
class Table:
    """An open file."""

    text: TextFile
    header: Header

    def close(self) -> None:
        self.text.close()


class CsvSource(RowSource[Table]):
    """CSV files. The place is a row's offset and length in bytes, and its number.

    Values are separated by commas, or by semicolons or tabs if there is no comma between the names. The id is the value
    of the id column, or "row 17", counted from 0 (with the file's name if the input is not a single file). Blank lines
    are skipped.
    """

    format = "csv"
    suffixes = frozenset({".csv"})
    delimiters = ",;\t"

    def __init__(self, inputs: Inputs, image_reader: ImageReader, columns: Columns) -> None:
        """Raises InputError if the first file has no column names, or lacks a column that is needed."""
        super().__init__(inputs, image_reader)
        self._max_row = _IMAGES_IN_ROW * image_reader.limits.max_image_bytes
        self._one_file = inputs.single_file
        first = next(self.files(), None)
        if first is None:
            raise InputError(f"there are no {self.format} files in {', '.join(inputs.locations)}")
        header = self._header(first)
        samples: dict[str, list[str]] = {name: [] for name in header.names}
        for row in islice(self._rows(first, header), _ROWS_LOOKED_AT):
            for name, value in _attempted(header, row).items():
                samples[name] += [value] if value else []
        self._columns = columns.found_in(samples, first.location)
        self.known_columns = self._columns.others(samples)

    def options(self) -> Mapping[str, Any]:
        return {"columns": self._columns.settings()}

    def list_rows(self) -> Iterator[Entry]:
        column = self._columns.id
        for found in self.files():
            before = "row" if self._one_file else f"{readable(found.name)} row"
            header = self._header(found)
            for row in self._rows(found, header):
                offset, length, number = row.place
                name = f"{before} {number - 1}"
                if column is not None:
                    name = id_or(_attempted(header, row).get(column), column, name)
                yield Entry(name, found.location, (offset, length, number - 1))

    def where(self, entry: Entry) -> str:
        return f"row {entry.place[2]} of {readable(entry.path)}"

    def open_file(self, path: str) -> AbstractContextManager[Table]:
        header = _read_header(self.inputs.storage, path, self.delimiters, self._max_row)
        return closing(Table(open_text(self.inputs.storage, path), header))

    def read_row(self, file: Table, entry: Entry) -> Content:
        offset, length, _ = entry.place
        if length > self._max_row:
            raise ValueError(f"the row has {length} bytes, more than the {self._max_row} that are read")
        values = values_of(file.text.text(offset, length), file.header.delimiter)
        return self._columns.content(file.header.row(values), self.image_reader, parent(entry.path))

    def _header(self, found: Found) -> Header:
        with reading(found):
            return _read_header(self.inputs.storage, found.location, self.delimiters, self._max_row)

    def _rows(self, found: Found, header: Header) -> Iterator[DelimitedRow]:
        """All rows below the names."""
        with reading(found):
            rows = delimited_rows(self.inputs.storage, found.location, header.delimiter, self._max_row)
            yield from islice(rows, 1, None)


class TsvSource(CsvSource):
    """TSV files: like CSV, with tabs."""

    format = "tsv"
    suffixes = frozenset({".tsv", ".tab"})
    delimiters = "\t"


def _read_header(storage: Storage, location: str, delimiters: str, longest: int) -> Header:
    """Raises InputError if the first row does not name columns."""
    for _, line, encoding in read_lines(storage, location, longest):
        try:
            delimiter = delimiter_of(decoded(line, encoding), delimiters)
            names = next(delimited_rows(storage, location, delimiter, longest)).values(delimiter)
        except ValueError as error:
            raise InputError(f"the first row of {location} does not name the columns: {error}") from error
        return Header(delimiter, tuple(distinct(names, location)))
    raise InputError(f"{location} is empty")


def _attempted(header: Header, row: DelimitedRow) -> Mapping[str, Any]:
    try:
        return header.row(row.values(header.delimiter))
    except ValueError:
        return {}  # the row fails with this error when it is read
