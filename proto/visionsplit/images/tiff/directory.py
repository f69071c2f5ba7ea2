"""Reads TIFF and BigTIFF directories: the tags that describe the samples."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal, TypeAlias

import numpy as np

from visionsplit.errors import InvalidImageError

Values: TypeAlias = tuple[Any, ...]  # integers or floats; for a tag of bytes, one bytes object


class Tag(IntEnum):
    """The tags that are read. All others are skipped, even damaged ones."""

    NEW_SUBFILE_TYPE = 254
    WIDTH = 256
    LENGTH = 257
    BITS_PER_SAMPLE = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES_PER_PIXEL = 277
    ROWS_PER_STRIP = 278
    STRIP_BYTE_COUNTS = 279
    PLANAR_CONFIGURATION = 284
    T4_OPTIONS = 292
    T6_OPTIONS = 293
    PREDICTOR = 317
    COLOR_MAP = 320
    TILE_WIDTH = 322
    TILE_LENGTH = 323
    TILE_OFFSETS = 324
    TILE_BYTE_COUNTS = 325
    SUB_IFDS = 330
    INK_SET = 332
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    JPEG_TABLES = 347
    YCBCR_COEFFICIENTS = 529
    YCBCR_SUBSAMPLING = 530
    REFERENCE_BLACK_WHITE = 532
    DNG_VERSION = 50706


_LONG_TAGS = frozenset(
    {
        Tag.STRIP_OFFSETS,
        Tag.STRIP_BYTE_COUNTS,
        Tag.TILE_OFFSETS,
        Tag.TILE_BYTE_COUNTS,
        Tag.COLOR_MAP,
    }
)

Tags: TypeAlias = Mapping[int, Values]

_UNDEFINED = 7
# Enough for the list of the 16 x 16 tiles of 64 million pixels, and for the largest palette.
_MOST_VALUES = 1 << 18
_MOST_ENTRIES = 1 << 16
_MOST_UNDEFINED_BYTES = 1 << 16  # of JPEG tables
_MOST_PLAIN_VALUES = 1 << 12  # for tags that are not in _LONG_TAGS
_RATIONALS = {5: "u4", 10: "i4"}
_TYPES = {
    1: "u1",
    2: "u1",
    3: "u2",
    4: "u4",
    6: "i1",
    _UNDEFINED: "u1",
    8: "i2",
    9: "i4",
    11: "f4",
    12: "f8",
    13: "u4",
    16: "u8",
    17: "i8",
    18: "u8",
}


@dataclass(frozen=True)
class _Form:
    """How a directory is stored: as plain TIFF or as BigTIFF."""

    order: Literal["<", ">"]
    big: bool

    @property
    def count(self) -> struct.Struct:
        return struct.Struct(self.order + ("Q" if self.big else "H"))

    @property
    def entry(self) -> struct.Struct:
        """Tag, type, count, and the value or its offset."""
        return struct.Struct(self.order + ("HHQ8s" if self.big else "HHI4s"))

    @property
    def offset(self) -> struct.Struct:
        return struct.Struct(self.order + ("Q" if self.big else "I"))


def read_directory(data: bytes, page: int) -> tuple[Tags, str]:
    """The tags of one page's directory, and the byte order of the file as "<" or ">".

    Raises:
        InvalidImageError: the file does not have that directory.
    """
    order: Literal["<", ">"] = "<" if data[:2] == b"II" else ">"
    form = _Form(order, big=data[2:4] in (b"+\0", b"\0+"))
    start = _unpack(form.offset, data, 8 if form.big else 4)
    for _ in range(page):
        number = _unpack(form.count, data, start)
        start = _unpack(form.offset, data, start + form.count.size + number * form.entry.size)
    if start == 0:
        raise InvalidImageError(f"the TIFF has no page {page}")
    tags: dict[int, Values] = {}
    for tag, kind, count, field in _entries(form, data, start):
        if tag in Tag._value2member_map_ and tag not in tags:
            tags[tag] = _values(form, data, tag, kind, count, field)
    return tags, order


def _entries(form: _Form, data: bytes, start: int) -> Iterator[tuple[int, int, int, bytes]]:
    number = _unpack(form.count, data, start)
    first = start + form.count.size
    end = first + number * form.entry.size
    if number > _MOST_ENTRIES:
        raise InvalidImageError(f"the TIFF is broken: its directory has {number} entries")
    if end > len(data):
        raise InvalidImageError("the TIFF is cut off or broken: its directory reaches beyond the end of the file")
    yield from form.entry.iter_unpack(data[first:end])


def _values(form: _Form, data: bytes, tag: int, kind: int, count: int, field: bytes) -> Values:
    """A tag's values; empty if its type is unknown, they lie beyond the end of the file, or there are too many."""
    pairs = 2 if kind in _RATIONALS else 1
    name = _RATIONALS.get(kind) or _TYPES.get(kind)
    if name is None:
        return ()
    dtype = np.dtype(name).newbyteorder(form.order)
    size = dtype.itemsize * count * pairs
    if count > _most_values(tag, kind):
        if tag in _LONG_TAGS:
            raise InvalidImageError(f"a TIFF with more than {_MOST_VALUES} strips, tiles or colours is not supported")
        return ()
    if size > len(field):
        start = _unpack(form.offset, field, 0)
        field = data[start : start + size]
    if len(field) < size:
        return ()
    if kind == _UNDEFINED:
        return (field[:size],)
    array = np.frombuffer(field, dtype, count * pairs)
    if pairs == 2:
        array = array[0::2] / np.maximum(np.abs(array[1::2]), 1) * np.where(array[1::2] < 0, -1, 1)
    return tuple(array.tolist())


def _most_values(tag: int, kind: int) -> int:
    """Only a few tags may have many values. The limits together bound a directory's memory, wherever tags point."""
    if tag in _LONG_TAGS:
        return _MOST_VALUES
    return _MOST_UNDEFINED_BYTES if kind == _UNDEFINED else _MOST_PLAIN_VALUES


def _unpack(form: struct.Struct, data: bytes, start: int) -> int:
    try:
        return int(form.unpack_from(data, start)[0])
    except struct.error:
        raise InvalidImageError("the TIFF is cut off or broken: a directory lies beyond the end of the file") from None
