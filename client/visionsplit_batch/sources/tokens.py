"""Reads vision tokens that an earlier job stored."""

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, BinaryIO

from visionsplit.wire.stored_tensors import Header
from visionsplit_client import EncodedImage, InvalidTokensError

from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.rows import Content, Entry
from visionsplit_batch.sinks.tokens import SHARD_FORMAT, TENSORS, tensor_name
from visionsplit_batch.sources.base import RowSource
from visionsplit_batch.sources.files import readable
from visionsplit_batch.sources.image_reader import ImageReader
from visionsplit_batch.sources.inputs import Inputs
from visionsplit_batch.storage.storage import Storage

# The exceptions that JSON of another form, or a wrong file, causes during reading.
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError)


class TokenShards(RowSource[BinaryIO]):
    """The rows of shards written by `TokensSink`. An entry's place is its row's number in the shard.

    The LLM service checks whether all tokens come from its vision tower.
    """

    format = "tokens"
    suffixes = frozenset({".safetensors"})

    def __init__(self, location: str, storage: Storage) -> None:
        """
        Args:
            location: a shard, or a folder or pattern of shards.
            storage: opens the shards.
        """
        super().__init__(Inputs([location], storage), ImageReader(storage=storage))
        self._last: tuple[str, Header] | None = None  # cached, since consecutive rows share a shard's large header

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}

    def list_rows(self) -> Iterator[Entry]:
        for found in self.files():
            try:
                with self.inputs.storage.open(found.location) as file:
                    header = _read_header(file)
                ids = [str(_row(header, number)["id"]) for number in range(int(header.metadata["rows"]))]
            except (OSError, InvalidTokensError, *_MALFORMED) as error:
                name = readable(found.location)
                raise InputError(f"{name} cannot be read as a file of vision tokens: {_text(error)}") from error
            for number, row_id in enumerate(ids):
                yield Entry(row_id, found.location, (number,))

    def where(self, entry: Entry) -> str:
        return f"row {entry.place[0]} of {readable(entry.path)}"

    def open_file(self, path: str) -> AbstractContextManager[BinaryIO]:
        file: AbstractContextManager[BinaryIO] = self.inputs.storage.open(path)
        return file

    def read_row(self, file: BinaryIO, entry: Entry) -> Content:
        try:
            return self._content(file, entry)
        except (InvalidTokensError, *_MALFORMED) as error:
            raise InvalidTokensError(f"{self.where(entry)} is broken: {_text(error)}") from error

    def _content(self, file: BinaryIO, entry: Entry) -> Content:
        header = self._header(file, entry.path)
        number = entry.place[0]
        row = _row(header, number)
        if row["id"] != entry.id:
            raise InvalidTokensError(f"it is now that of {row['id']!r}, not of {entry.id!r}")
        images = []
        for index, metadata in enumerate(row["images"]):
            names = {name: tensor_name(number, index, name) for name in TENSORS}
            tensors = {name: header.read_tensor(file, at) for name, at in names.items() if at in header.places}
            images.append(EncodedImage.from_tensors(tensors, metadata))
        return Content(tokens=tuple(images), fields=row["fields"])

    def _header(self, file: BinaryIO, shard: str) -> Header:
        last = self._last  # read once, since several threads may read and replace it
        if last is None or last[0] != shard:
            last = (shard, _read_header(file))
            self._last = last
        return last[1]


def _read_header(file: BinaryIO) -> Header:
    header = Header.read(file)
    if header.metadata.get("format") != SHARD_FORMAT:
        raise InvalidTokensError(f"it holds {header.metadata.get('format')!r}, not {SHARD_FORMAT!r}")
    return header


def _row(header: Header, number: int) -> Mapping[str, Any]:
    if str(number) not in header.metadata:
        raise InvalidTokensError(f"it has no row {number}")
    row: Mapping[str, Any] = json.loads(header.metadata[str(number)])
    return row


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, OSError | InvalidTokensError) else f"{type(error).__name__} {error}"
