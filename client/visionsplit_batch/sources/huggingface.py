"""Reads datasets saved by the datasets library's `save_to_disk` from their Arrow files, without that library."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.rows import Content, Entry
from visionsplit_batch.sources.arrow_cells import column_cells, row_values
from visionsplit_batch.sources.arrow_samples import FILES_LOOKED_AT, ROWS_LOOKED_AT, ArrowSamples
from visionsplit_batch.sources.base import RowSource
from visionsplit_batch.sources.files import readable
from visionsplit_batch.sources.image_reader import ImageReader
from visionsplit_batch.sources.inputs import Inputs
from visionsplit_batch.sources.table import Columns, distinct, id_or
from visionsplit_batch.storage.storage import Storage, join, parent, parse

STATE, SPLITS = "state.json", "dataset_dict.json"
_MAX_STATE_BYTES = 1 << 26


class ArrowFile:
    """One memory-mapped file of record batches, which are identified by their offsets."""

    def __init__(self, path: str) -> None:
        """Raises InputError if the file is not an Arrow stream."""
        self._map = pa.memory_map(path)
        try:
            self.schema = pa.ipc.open_stream(self._map).schema
        except pa.ArrowInvalid as error:
            self._map.close()
            raise InputError(f"{path} is not an Arrow stream as the datasets library writes it: {error}") from error
        if any(pa.types.is_dictionary(column.type) for column in self.schema):
            raise InputError(f"{path} has columns with dictionaries, which cannot be read row by row")
        self._at = -1
        self._batch: pa.RecordBatch | None = None

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Every batch with its offset."""
        self._map.seek(0)
        pa.ipc.read_message(self._map)  # the schema
        while True:
            offset = self._map.tell()
            try:
                message = pa.ipc.read_message(self._map)
            except EOFError:
                return
            yield offset, pa.ipc.read_record_batch(message, self.schema)

    def batch(self, offset: int) -> pa.RecordBatch:
        if self._batch is None or offset != self._at:
            self._map.seek(offset)
            self._at, self._batch = offset, pa.ipc.read_record_batch(pa.ipc.read_message(self._map), self.schema)
        return self._batch

    def close(self) -> None:
        self._batch = None
        self._map.close()


class HuggingFaceSource(RowSource[ArrowFile]):
    """A saved dataset. The place is the offset of the row's batch in its file, the row's index in the batch, and its
    number in the dataset.

    The id is the value of the id column, or "row 17", counted from 0 over the dataset.
    """

    format = "huggingface"
    suffixes = frozenset({".arrow"})

    def __init__(self, inputs: Inputs, image_reader: ImageReader, columns: Columns, split: str | None = None) -> None:
        """Raises InputError if the input is not a saved dataset, lacks a column, or needs another split."""
        super().__init__(inputs, image_reader)
        folder = inputs.folder
        if folder is None or parse(folder) is not None:
            raise InputError("a saved dataset is one folder on this machine's file systems; from a store, use parquet")
        self._folder = _split_folder(inputs.storage, folder, split)
        self._split = split
        self._files = _data_files(inputs.storage, self._folder)
        samples = ArrowSamples(wanted=columns.image is None)
        for path in self._files[:FILES_LOOKED_AT]:
            with contextlib.closing(ArrowFile(path)) as file:
                distinct(file.schema.names, self._folder)
                batch = next((batch for _, batch in file.batches()), None)
                samples.add(file.schema, partial(_first_values, batch))
                batch = None  # released before its file is closed
            if samples.settled:
                break
        self._columns = columns.found_in(samples.values, self._folder, bytes_columns=samples.bytes_columns)
        self.known_columns = self._columns.others(samples.values)

    def options(self) -> Mapping[str, Any]:
        return {"columns": self._columns.settings(), "split": self._split}

    def list_rows(self) -> Iterator[Entry]:
        number = 0
        for path in self._files:
            try:
                with contextlib.closing(ArrowFile(path)) as file:
                    for offset, batch in file.batches():
                        for row, identity in enumerate(self._ids(batch, number)):
                            yield Entry(identity, path, (offset, row, number + row))
                        number += batch.num_rows
            except (OSError, pa.ArrowException) as error:
                raise InputError(f"{path} cannot be read: {error}") from error

    def where(self, entry: Entry) -> str:
        return f"row {entry.place[2]} of {readable(self._folder)}"

    def open_file(self, path: str) -> contextlib.AbstractContextManager[ArrowFile]:
        return contextlib.closing(ArrowFile(path))

    def read_row(self, file: ArrowFile, entry: Entry) -> Content:
        offset, row, _ = entry.place
        batch = file.batch(offset)
        if self._columns.names is not None:
            batch = batch.select(self._columns.names)
        return self._columns.content(row_values(batch, row), self.image_reader, parent(entry.path))

    def _ids(self, batch: pa.RecordBatch, first: int) -> Iterator[str]:
        if self._columns.id is None:
            yield from (f"row {first + row}" for row in range(batch.num_rows))
            return
        for row, value in enumerate(column_cells(batch.column(self._columns.id))):
            yield id_or(value, self._columns.id, f"row {first + row}")


def _first_values(batch: pa.RecordBatch | None, name: str) -> list[Any]:
    """The first values of a column."""
    return [] if batch is None else list(column_cells(batch.column(name).slice(0, ROWS_LOOKED_AT)))


def is_saved_dataset(storage: Storage, folder: str) -> bool:
    return storage.is_file(join(folder, STATE)) or storage.is_file(join(folder, SPLITS))


def _split_folder(storage: Storage, folder: str, split: str | None) -> str:
    if not storage.is_file(join(folder, SPLITS)):
        if split is not None:
            raise InputError(f"{folder} has no splits; leave out the split {split!r}")
        return folder
    splits = _read_json(storage, join(folder, SPLITS)).get("splits", [])
    if split is None and len(splits) == 1:
        split = splits[0]
    if split is None or split not in splits:
        asked = "name one" if split is None else f"there is no {split!r}"
        raise InputError(f"{folder} has the splits {', '.join(splits)}; {asked}")
    return join(folder, split)


def _data_files(storage: Storage, folder: str) -> list[str]:
    state = _read_json(storage, join(folder, STATE))
    files = [join(folder, file["filename"]) for file in state.get("_data_files", ())]
    if not files or state.get("_indices_data_files"):
        raise InputError(f"{folder} has no data files; save the dataset again with the datasets library")
    if missing := next((file for file in files if not Path(file).is_file()), None):
        raise InputError(f"{missing} is missing, which {STATE} beside it names")
    return files


def _read_json(storage: Storage, location: str) -> dict[str, Any]:
    try:
        document = json.loads(storage.read(location, _MAX_STATE_BYTES))
    except (OSError, ValueError) as error:
        raise InputError(f"{location}, which a saved dataset has, cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{location} does not belong to a saved dataset")
    return document
