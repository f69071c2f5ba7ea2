"""The bytes of strips and tiles, unpacked.

Pillow's libtiff undoes the compression. It is shown a small TIFF of the same strips whose samples are plain bytes, so
that what it knows about other samples does not matter: their width, order, type and meaning are read by `samples`.
"""

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import TiffImageFile

from visionsplit.errors import InvalidImageError
from visionsplit.images.scaling import Bytes
from visionsplit.images.tiff.directory import Tag
from visionsplit.images.tiff.layout import CCITT, Compression, Layout, Photometric

_GROUP_BYTES = 1 << 23  # of strips or tiles that are unpacked together: opening a TIFF for each would take long
_GROUP_PARTS = 4096
_SLACK = {Compression.JPEG: 1 << 16}  # bytes of a part beyond twice its unpacked size
_DEFAULT_SLACK = 1 << 10
_REVERSED = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1], axis=1)[:, 0]

_SHORT, _LONG, _UNDEFINED = 3, 4, 7
Fields: TypeAlias = dict[Tag, tuple[int, Any]]  # a type, and one number or the bytes of several
_IMAGE_CODECS = CCITT | {Compression.JPEG}  # these know about pixels


@dataclass(frozen=True)
class Shape:
    """A strip or tile once unpacked."""

    rows: int
    row_bytes: int


def shape_of(layout: Layout, rows: int) -> Shape:
    """The shape of a part of `rows` rows of pixels."""
    across, down = layout.subsampling
    if (across, down) != (1, 1):
        # Rows of units: the brightness of across x down pixels, then their two colours.
        return Shape(-(-rows // down), -(-layout.part_width // across) * (across * down + 2))
    return Shape(rows, -(-layout.part_width * layout.samples_of_part * layout.bits // 8))


def unpack_parts(data: bytes, layout: Layout, parts: Sequence[tuple[int, int]]) -> Iterator[Bytes]:
    """The bytes of each part, [rows, row bytes]; CCITT gives one byte, 0 or 1, for each bit.

    Args:
        parts: index and rows of pixels of strips or tiles, in the order wanted.
    """
    for rows, run in groupby(parts, key=lambda part: part[1]):
        shape = shape_of(layout, rows)
        most = max(1, min(_GROUP_PARTS, _GROUP_BYTES // (shape.rows * shape.row_bytes)))
        while group := [_stored(data, layout, index, shape) for index, _ in islice(run, most)]:
            yield from _unpack_group(layout, group, shape, rows)


def _stored(data: bytes, layout: Layout, index: int, shape: Shape) -> bytes:
    start = layout.offsets[index]
    size = shape.rows * shape.row_bytes
    # Some programs leave the lengths out, or 0.
    count = (layout.byte_counts[index] if index < len(layout.byte_counts) else 0) or len(data) - start
    if start + count > len(data):
        raise InvalidImageError("the TIFF is cut off: strips or tiles lie beyond the end of the file")
    if layout.compression == Compression.NONE:
        if count < size:
            raise InvalidImageError("the TIFF is cut off: a strip or tile has fewer bytes than its pixels take")
        return data[start : start + size]
    # A file may say of each of thousands of parts that it is all of the file.
    return data[start : start + min(count, 2 * size + _SLACK.get(layout.compression, _DEFAULT_SLACK))]


def _unpack_group(layout: Layout, group: list[bytes], shape: Shape, rows: int) -> Iterator[Bytes]:
    fill_order = layout.one(Tag.FILL_ORDER, 1)
    if layout.compression == Compression.NONE:
        for stored in group:
            plain = np.frombuffer(stored, np.uint8).reshape(shape.rows, shape.row_bytes)
            yield _REVERSED[plain] if fill_order == 2 else plain
        return
    if layout.compression in _IMAGE_CODECS:
        tags, height, width = _image_tags(layout), rows, layout.part_width
    else:
        tags = _byte_tags(shape.row_bytes, fill_order)
        height, width = shape.rows, shape.row_bytes // tags[Tag.SAMPLES_PER_PIXEL][1]
    tags |= {
        Tag.WIDTH: (_LONG, width),
        Tag.LENGTH: (_LONG, height * len(group)),
        Tag.ROWS_PER_STRIP: (_LONG, height),
        Tag.COMPRESSION: (_SHORT, int(layout.compression)),
        Tag.FILL_ORDER: (_SHORT, fill_order),
    }
    image = TiffImageFile(io.BytesIO(_tiff(tags, group)))
    image.load()
    yield from np.asarray(image).view(np.uint8).reshape(len(group), height, -1)


def _byte_tags(row_bytes: int, fill_order: int) -> Fields:
    # As many channels as divide a row, so that long rows do not look like too many pixels to Pillow; which does not
    # take four of them with the bits of bytes in reverse.
    channels = next(number for number in ((4, 3, 1) if fill_order == 1 else (3, 1)) if row_bytes % number == 0)
    photometric = {4: Photometric.CMYK, 3: Photometric.RGB, 1: Photometric.BLACK_IS_ZERO}[channels]
    return {
        Tag.SAMPLES_PER_PIXEL: (_SHORT, channels),
        Tag.BITS_PER_SAMPLE: (_SHORT, 8),
        Tag.PHOTOMETRIC: (_SHORT, int(photometric)),
    }


def _image_tags(layout: Layout) -> Fields:
    """What the codecs of whole images must know. JPEG gives RGB for YCbCr."""
    grey = layout.colours == 1
    tags: Fields = {
        Tag.SAMPLES_PER_PIXEL: (_SHORT, layout.samples),
        Tag.BITS_PER_SAMPLE: (_SHORT, layout.bits),
        Tag.PHOTOMETRIC: (_SHORT, int(Photometric.BLACK_IS_ZERO if grey else layout.photometric)),
        Tag.T4_OPTIONS: (_LONG, layout.one(Tag.T4_OPTIONS, 0)),
        Tag.T6_OPTIONS: (_LONG, layout.one(Tag.T6_OPTIONS, 0)),
    }
    if tables := layout.tags.get(Tag.JPEG_TABLES):
        tags[Tag.JPEG_TABLES] = (_UNDEFINED, tables[0])
    if layout.photometric == Photometric.YCBCR:
        across, down = (layout.tags.get(Tag.YCBCR_SUBSAMPLING) or (2, 2))[:2]
        tags[Tag.YCBCR_SUBSAMPLING] = (_SHORT, struct.pack("<HH", across, down))
    return tags


def _tiff(tags: Fields, strips: list[bytes]) -> bytes:
    """A little-endian TIFF."""
    lengths: NDArray[np.uint32] = np.array([len(strip) for strip in strips], "<u4")
    starts = (8 + lengths.cumsum() - lengths).astype("<u4")
    entries: dict[Tag, tuple[int, int, bytes]] = {
        Tag.STRIP_OFFSETS: (_LONG, len(strips), starts.tobytes()),
        Tag.STRIP_BYTE_COUNTS: (_LONG, len(strips), lengths.tobytes()),
    }
    for tag, (kind, value) in tags.items():
        size = {_SHORT: 2, _LONG: 4, _UNDEFINED: 1}[kind]
        content = value.to_bytes(size, "little") if isinstance(value, int) else value
        entries[tag] = (kind, len(content) // size, content)
    body = b"".join(strips)
    outside = b""
    directory = struct.pack("<H", len(entries))
    first_outside = 8 + len(body) + 2 + 12 * len(entries) + 4
    for tag, (kind, count, content) in sorted(entries.items()):
        field = content
        if len(content) > 4:
            field = struct.pack("<I", first_outside + len(outside))
            outside += content
        directory += struct.pack("<HHI4s", tag, kind, count, field)
    return b"".join([b"II*\0", struct.pack("<I", 8 + len(body)), body, directory, bytes(4), outside])
