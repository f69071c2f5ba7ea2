"""Reads and writes the safetensors file format: a length, a JSON header, then the tensors' bytes.

Tensors stay bytes, as they are on the wire. Files of many tensors are written as a stream and read in ranges of bytes,
for which the safetensors library has no functions. https://huggingface.co/docs/safetensors describes the format.
"""

import io
import json
import math
import shutil
import struct
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, Self

_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_MEMORY_BYTES = 1 << 26
_METADATA = "__metadata__"
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "I32": 4}


@dataclass(frozen=True)
class StoredTensor:
    """A row-major tensor as little-endian bytes."""

    dtype: str  # the format's name, such as "BF16"
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor lies, in bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file says of its tensors before they come."""

    places: Mapping[str, TensorPlace]
    metadata: Mapping[str, str]
    start: int  # of the tensors' bytes, from the file's beginning

    @classmethod
    def read(cls, file: BinaryIO) -> "Header":
        """Read it from a seekable file, and check that it and the file's length agree.

        Raises:
            OSError: the file cannot be read.
            ValueError, TypeError, KeyError: the file has another format, is cut short, or has a type that vision tokens
                never have.
        """
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if size < _LENGTH.size:
            raise ValueError("the file is too short for a header")
        (length,) = _LENGTH.unpack(_read_exactly(file, _LENGTH.size))
        start = _LENGTH.size + length
        if length > _MAX_HEADER_BYTES or start > size:
            raise ValueError(f"the header claims {length} bytes; the file has {size}")
        try:
            header = json.loads(_read_exactly(file, length))
        except RecursionError:
            raise ValueError("the header is nested too deeply") from None
        if not isinstance(header, dict):
            raise ValueError("the header is not a JSON object")
        metadata = header.pop(_METADATA, {})
        if not isinstance(metadata, dict):
            raise ValueError("the metadata is not a JSON object")
        places = {name: _place(name, entry, size - start) for name, entry in header.items()}
        _check_places(places.values(), size - start)
        return cls(places, metadata, start)

    def read_tensor(self, file: BinaryIO, name: str) -> StoredTensor:
        """One tensor, by seeking.

        Raises:
            OSError: the file cannot be read.
            KeyError: there is none of this name.
            ValueError: the file is shorter than it was when the header was read.
        """
        place = self.places[name]
        file.seek(self.start + place.begin)
        return StoredTensor(place.dtype, place.shape, _read_exactly(file, place.end - place.begin))


class TensorWriter:
    """Writes a file whose tensors come one after the other. Use it as a context manager.

    A file begins with a header that says where all tensors are, so they wait for the last one: in memory, and in a
    temporary file beyond 64 MiB.
    """

    def __init__(self) -> None:
        self._waiting = tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES)  # noqa: SIM115 - __exit__ closes it
        self._places: dict[str, TensorPlace] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.close()

    def add(self, name: str, tensor: StoredTensor) -> None:
        begin = self._waiting.tell()
        self._waiting.write(tensor.data)
        self._places[name] = TensorPlace(tensor.dtype, tensor.shape, begin, self._waiting.tell())

    def finish(self, file: IO[bytes], metadata: Mapping[str, str]) -> None:
        """Write the header and the tensors that were added.

        Raises:
            OSError: the file cannot be written.
            ValueError: the header is larger than the format allows.
        """
        header: dict[str, Any] = {_METADATA: dict(metadata)}
        for name, place in self._places.items():
            header[name] = {
                "dtype": place.dtype,
                "shape": list(place.shape),
                "data_offsets": [place.begin, place.end],
            }
        encoded = json.dumps(header, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % 8)
        if len(encoded) > _MAX_HEADER_BYTES:
            raise ValueError(f"the header has {len(encoded)} bytes; safetensors allows {_MAX_HEADER_BYTES}")
        file.write(_LENGTH.pack(len(encoded)) + encoded)
        self._waiting.seek(0)
        shutil.copyfileobj(self._waiting, file)


def write_tensors(file: IO[bytes], tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str]) -> None:
    """Write a whole file: tensors in the given order, but those of wide elements first, so that all are aligned."""
    with TensorWriter() as writer:
        for name, tensor in sorted(tensors.items(), key=lambda item: -_ITEM_BYTES[item[1].dtype]):
            writer.add(name, tensor)
        writer.finish(file, metadata)


def read_tensors(file: BinaryIO) -> tuple[dict[str, StoredTensor], Mapping[str, str]]:
    """All tensors and the metadata of a seekable file. Raises as `Header.read` does."""
    header = Header.read(file)
    return {name: header.read_tensor(file, name) for name in header.places}, header.metadata


def _place(name: str, entry: Mapping[str, Any], available: int) -> TensorPlace:
    dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if dtype not in _ITEM_BYTES or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"tensor {name!r} has type {dtype!r} and shape {list(shape)}")
    size = math.prod(shape) * _ITEM_BYTES[dtype]
    if not 0 <= begin <= end <= available or end - begin != size:
        raise ValueError(f"tensor {name!r} needs {size} bytes; its place is {begin} to {end}")
    return TensorPlace(dtype, shape, begin, end)


def _check_places(places: Iterable[TensorPlace], available: int) -> None:
    """That tensors fill the file without gaps, and none lies in another."""
    filled = 0
    for place in sorted(places, key=lambda place: (place.begin, place.end)):
        if place.begin != filled:
            raise ValueError(f"a tensor begins at byte {place.begin}; the one before it ends at {filled}")
        filled = place.end
    if filled != available:
        raise ValueError(f"the tensors have {filled} bytes; the file holds {available}")


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    content = file.read(size)
    if len(content) != size:
        raise ValueError(f"the file ended {size - len(content)} bytes too early")
    return content
