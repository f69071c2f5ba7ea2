"""Parquet files with a column of images: paths, URLs, bytes, or {"bytes", "path"} as in the datasets library."""

import contextlib
import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import accumulate, islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.rows import Content, Entry
from visionsplit_batch.sources.arrow_cells import column_cells, row_values
from visionsplit_batch.sources.arrow_samples import FILES_LOOKED_AT, ROWS_LOOKED_AT, ArrowSamples
from visionsplit_batch.sources.base import RowSource
from visionsplit_batch.sources.files import readable
from visionsplit_batch.sources.image_reader import ImageReader
from visionsplit_batch.sources.inputs import Found, Inputs
from visionsplit_batch.sources.table import Columns, distinct, id_or
from visionsplit_batch.storage.storage import Storage, parent

_ROWS_AT_ONCE = 32  # rows in memory, with their images
_IDS_AT_ONCE = 8192
_BUFFER_BYTES = 1 << 20  # per column, so that a large row group is not read as a whole


class Reader:
    """Reads one file forwards. Going back restarts its row group, since rows have no addresses in this format."""

    def __init__(self, storage: Storage, path: str, columns: list[str] | None) -> None:
        self.path = path
        self._opened = storage.open(path)
        try:
            self._file = pq.ParquetFile(self._opened, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        except BaseException:
            self._opened.close()
            raise
        self._columns = columns
        metadata = self._file.metadata
        groups = (metadata.row_group(index).num_rows for index in range(metadata.num_row_groups))
        self._starts = list(accumulate(groups, initial=0))
        self._group = -1
        self._start = 0  # number of the first row in `_batch`
        self._batch: pa.RecordBatch | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())

    def row(self, number: int) -> Mapping[str, Any]:
        """Read the row with this number in the file, counted from 0.

        Raises:
            ValueError: the file has fewer rows.
        """
        if number >= self._starts[-1]:
            raise ValueError(f"row {number} does not exist; the file has {self._starts[-1]} rows")
        group = bisect_right(self._starts, number) - 1
        if group != self._group or self._batch is None or number < self._start:
            self._group, self._start, self._batch = group, self._starts[group], None
            self._batches = self._file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=self._columns)
        while self._batch is None or number >= self._start + self._batch.num_rows:
            self._start += 0 if self._batch is None else self._batch.num_rows
            self._batch = None  # released before the next is read, since each may be large
            self._batch = next(self._batches)
        return row_values(self._batch, number - self._start)

    def close(self) -> None:
        self._opened.close()


class ReaderCache:
    """Keeps the last reader for the next slice, which often continues where the previous one ended.

    A reader cannot be pickled, so the cache is empty in a process that receives it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reader: Reader | None = None

    def __reduce__(self) -> tuple[type["ReaderCache"], tuple[()]]:
        return ReaderCache, ()

    def take(self, path: str) -> Reader | None:
        """Remove and return the reader, if it is for this file. The caller then owns it."""
        with self._lock:
            if self._reader is None or self._reader.path != path:
                return None
            reader, self._reader = self._reader, None
            return reader

    def put(self, reader: Reader) -> None:
        with self._lock:
            older, self._reader = self._reader, reader
        if older is not None:
            older.close()


class ParquetSource(RowSource[Reader]):
    """Parquet files. The place is the row's number in its file, counted from 0.

    The id is the value of the id column, or "row 17" (with the file's name if the input is not a single file).
    """

    format = "parquet"
    suffixes = frozenset({".parquet", ".pq"})

    def __init__(self, inputs: Inputs, image_reader: ImageReader, columns: Columns) -> None:
        """Raises InputError if the first files lack a column."""
        super().__init__(inputs, image_reader)
        self._one_file = inputs.single_file
        self._readers = ReaderCache()
        samples = ArrowSamples(wanted=columns.image is None)
        first: Found | None = None
        for found in islice(self.files(), FILES_LOOKED_AT):
            first = first or found
            with self._opened(found) as file:
                distinct(file.schema_arrow.names, found.location)
                samples.add(file.schema_arrow, partial(_first_values, file))
            if samples.settled:
                break
        if first is None:
            raise InputError(f"there are no parquet files in {', '.join(inputs.locations)}")
        self._columns = columns.found_in(samples.values, first.location, bytes_columns=samples.bytes_columns)
        self.known_columns = self._columns.others(samples.values)

    def options(self) -> Mapping[str, Any]:
        return {"columns": self._columns.settings()}

    def list_rows(self) -> Iterator[Entry]:
        for found in self.files():
            with self._opened(found) as file:
                for row, identity in enumerate(self._ids(file, found)):
                    yield Entry(identity, found.location, (row,))

    def where(self, entry: Entry) -> str:
        return f"row {entry.place[0]} of {readable(entry.path)}"

    @contextlib.contextmanager
    def open_file(self, path: str) -> Iterator[Reader]:
        reader = self._readers.take(path) or Reader(self.inputs.storage, path, self._columns.names)
        try:
            yield reader
        except BaseException:
            reader.close()
            raise
        self._readers.put(reader)

    def read_row(self, file: Reader, entry: Entry) -> Content:
        return self._columns.content(file.row(entry.place[0]), self.image_reader, parent(entry.path))

    def _ids(self, file: pq.ParquetFile, found: Found) -> Iterator[str]:
        before = "row" if self._one_file else f"{readable(found.name)} row"
        column = self._columns.id
        if column is None:
            yield from (f"{before} {row}" for row in range(file.metadata.num_rows))
            return
        if not file.metadata.num_rows:
            return  # a program that wrote no rows may not have known the columns
        if column not in file.schema_arrow.names:
            raise InputError(f"{found.location} has no column {column!r}")
        row = 0
        for batch in file.iter_batches(_IDS_AT_ONCE, columns=[column]):
            for value in column_cells(batch.column(column)):
                yield id_or(value, column, f"{before} {row}")
                row += 1

    @contextlib.contextmanager
    def _opened(self, found: Found) -> Iterator[pq.ParquetFile]:
        try:
            with self.inputs.storage.open(found.location) as opened:
                yield pq.ParquetFile(opened, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{found.location} cannot be read as parquet: {error}") from error


def _first_values(file: pq.ParquetFile, name: str) -> list[Any]:
    """The first values of a column; empty if the column cannot be read."""
    try:
        batch = next(file.iter_batches(ROWS_LOOKED_AT, columns=[name]), None)
    except (OSError, pa.ArrowException):  # the rows fail with this error when they are read
        return []
    return [] if batch is None else list(column_cells(batch.column(0)))
