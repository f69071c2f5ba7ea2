"""Yields the rows of a JSON file: one object per line, or an array of objects."""

import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from visionsplit_batch.errors import InputError
from visionsplit_batch.sources.json_array import array_elements
from visionsplit_batch.sources.text import HEAD_BYTES, Place, decoded, encoding_of, read_lines
from visionsplit_batch.storage.storage import Storage

_ARRAY = re.compile(r"\s*\[\s*(?:\{|\]|\Z)")


def json_rows(storage: Storage, location: str, longest: int) -> Iterator[tuple[Place, bytes, str]]:
    """Each row's place, bytes and encoding. Lines are numbered from 1, elements of an array from 0.

    Raises:
        InputError: an array is malformed, or not UTF-8.
        OSError: the file cannot be read.
    """
    if not is_array(storage, location):
        yield from read_lines(storage, location, longest)
        return
    opened: Any = storage.open(location)  # has the interface of io.RawIOBase without inheriting from it
    with io.BufferedReader(opened) as file:
        for number, (offset, element) in enumerate(array_elements(file, location, longest)):
            yield (offset, len(element), number), element, "utf-8"


def is_array(storage: Storage, location: str) -> bool:
    """Whether the file holds an array of objects, whatever its name.

    Raises:
        InputError: the file is an array, but not in UTF-8.
        OSError: the file cannot be read.
    """
    head = storage.read(location, HEAD_BYTES - 1)
    encoding = encoding_of(head)
    found = _ARRAY.match(decoded(head, encoding, "replace")) is not None
    if found and encoding != "utf-8":
        raise InputError(f"{location} is {encoding.upper()} text; a JSON array is read as UTF-8 only, so convert it")
    return found


def parse_row(row: bytes | str, encoding: str = "utf-8") -> Mapping[str, Any]:
    """Parse the object of a row.

    Raises:
        ValueError: the row is not an object, or has a key twice, so that one of the values would be lost.
    """
    try:
        text = decoded(row, encoding) if isinstance(row, bytes) else row
        value = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the row is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"the row is not a JSON object, it begins with {text[:20]!r}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} comes twice")
    return found
