"""Reads and writes the safetensors file format: a length, a JSON header, then the tensors' bytes.

The safetensors library needs a framework to hold a bfloat16 tensor; here tensors stay bytes, as they are on the wire.
https://huggingface.co/docs/safetensors describes the format.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_METADATA = "__metadata__"
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "I32": 4}


@dataclass(frozen=True)
class StoredTensor:
    """A row-major tensor as little-endian bytes."""

    dtype: str  # the format's name, such as "BF16"
    shape: tuple[int, ...]
    data: bytes


def write_file(path: Path, tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str]) -> None:
    """Write tensors in the given order, with wide elements first, so that all are aligned."""
    ordered = sorted(tensors.items(), key=lambda item: -_ITEM_BYTES[item[1].dtype])
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    offset = 0
    for name, tensor in ordered:
        end = offset + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(_LENGTH.pack(len(encoded)))
        file.write(encoded)
        for _, tensor in ordered:
            file.write(tensor.data)


def read_file(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors and the metadata of a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no safetensors file, is cut short, or has a type that vision tokens never have.
    """
    content = path.read_bytes()
    if len(content) < _LENGTH.size:
        raise ValueError("the file is too short for a header")
    (length,) = _LENGTH.unpack_from(content)
    start = _LENGTH.size + length
    if length > _MAX_HEADER_BYTES or start > len(content):
        raise ValueError(f"the header claims {length} bytes; the file has {len(content)}")
    header = json.loads(content[_LENGTH.size : start])
    if not isinstance(header, dict):
        raise ValueError("the header is no JSON object")
    metadata = header.pop(_METADATA, {})
    tensors = {name: _read_tensor(name, entry, content, start) for name, entry in header.items()}
    total = sum(len(tensor.data) for tensor in tensors.values())
    if start + total != len(content):
        raise ValueError(f"the tensors have {total} bytes; the file holds {len(content) - start}")
    return tensors, metadata


def _read_tensor(name: str, entry: Mapping[str, Any], content: bytes, start: int) -> StoredTensor:
    dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if dtype not in _ITEM_BYTES or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"tensor {name!r} has type {dtype!r} and shape {list(shape)}")
    size = math.prod(shape) * _ITEM_BYTES[dtype]
    if not 0 <= begin <= end <= len(content) - start or end - begin != size:
        raise ValueError(f"tensor {name!r} needs {size} bytes; its place is {begin} to {end}")
    return StoredTensor(dtype, shape, content[start + begin : start + end])
