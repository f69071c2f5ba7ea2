"""Decompresses strips and tiles to bytes.

Pillow's libtiff does the decompression. It receives a small TIFF with the same strips whose samples are declared as
plain bytes, so that its support for other samples does not matter: `samples` interprets their width, order, type and
meaning.
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

GROUP_BYTES = 1 << 23  # of strips or tiles decompressed together, since opening a TIFF for each would take long
_GROUP_PARTS = 4096
_SLACK = {Compression.JPEG: 1 << 16}  # bytes that a stored part may have beyond twice its decompressed size
_DEFAULT_SLACK = 1 << 10
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_COPIED_PIXELS = 1 << 20  # pixels copied out of Pillow's image at a time

_SHORT, _LONG, _UNDEFINED = 3, 4, 7
Fields: TypeAlias = dict[Tag, tuple[int, Any]]  # a type, and one number or the bytes of several
_IMAGE_CODECS = CCITT | {Compression.JPEG}  # these operate on pixels instead of bytes


@dataclass(frozen=True)
class Shape:
    """The size of a decompressed strip or tile."""

    rows: int
    row_bytes: int


def shape_of(layout: Layout, rows: int) -> Shape:
    """The size of a part with `rows` rows of pixels."""
    across, down = layout.subsampling
    if (across, down) != (1, 1):
        # Rows of units: the luma of across x down pixels, then their two chroma values.
        return Shape(-(-rows // down), -(-layout.part_width // across) * (across * down + 2))
    return Shape(rows, -(-layout.part_width * layout.samples_of_part * layout.bits // 8))


def unpack_parts(data: bytes, layout: Layout, parts: Sequence[tuple[int, int]]) -> Iterator[Bytes]:
    """The bytes of each part, [rows, row bytes]; CCITT gives one byte, 0 or 1, for each bit.

    Args:
        parts: index and rows of pixels of strips or tiles, in the order wanted.
    """
    for rows, run in groupby(parts, key=lambda part: part[1]):
        shape = shape_of(layout, rows)
        most = max(1, min(_GROUP_PARTS, GROUP_BYTES // most_stored(layout, shape)))
        while group := [_stored(data, layout, index, shape) for index, _ in islice(run, most)]:
            yield from _unpack_group(layout, group, shape, rows)


def most_stored(layout: Layout, shape: Shape) -> int:
    """How many stored bytes of a part are read: a file may claim for each of thousands of parts the whole file."""
    return 2 * shape.rows * shape.row_bytes + _SLACK.get(layout.compression, _DEFAULT_SLACK)


def _stored(data: bytes, layout: Layout, index: int, shape: Shape) -> memoryview:
    start = layout.offsets[index]
    size = shape.rows * shape.row_bytes
    # Some programs omit the lengths, or write 0.
    count = (layout.byte_counts[index] if index < len(layout.byte_counts) else 0) or len(data) - start
    if start + count > len(data):
        raise InvalidImageError("the TIFF is cut off: strips or tiles lie beyond the end of the file")
    if layout.compression == Compression.NONE:
        if count < size:
            raise InvalidImageError("the TIFF is cut off: a strip or tile has fewer bytes than its pixels take")
        return memoryview(data)[start : start + size]
    return memoryview(data)[start : start + min(count, most_stored(layout, shape))]


def _unpack_group(layout: Layout, group: list[memoryview], shape: Shape, rows: int) -> Iterator[Bytes]:
    if layout.compression == Compression.NONE:
        for stored in group:
            plain = bytes(stored).translate(_REVERSED) if layout.lowest_bit_first else stored
            yield np.frombuffer(plain, np.uint8).reshape(shape.rows, shape.row_bytes)
        return
    if layout.compression in _IMAGE_CODECS:
        tags, height, width = _image_tags(layout), rows, layout.part_width
    else:
        channels = channels_of(layout, shape)
        tags, height, width = _byte_tags(channels), shape.rows, shape.row_bytes // channels
    tags |= {
        Tag.WIDTH: (_LONG, width),
        Tag.LENGTH: (_LONG, height * len(group)),
        Tag.ROWS_PER_STRIP: (_LONG, height),
        Tag.COMPRESSION: (_SHORT, int(layout.compression)),
        Tag.FILL_ORDER: (_SHORT, layout.one(Tag.FILL_ORDER, 1)),
    }
    yield from _pixels(_tiff(tags, group)).reshape(len(group), height, -1)


def _pixels(file: bytes) -> Bytes:
    """A TIFF's pixels, [height, width, ...]. Copied in blocks: NumPy would take twice their memory to copy them."""
    image = TiffImageFile(io.BytesIO(file))
    image.load()
    step = max(1, _COPIED_PIXELS // image.width)
    tops = range(0, image.height, step)
    blocks = (
        np.asarray(image.crop((0, top, image.width, min(top + step, image.height)))).view(np.uint8) for top in tops
    )
    first = next(blocks)
    pixels: Bytes = np.empty((image.height, *first.shape[1:]), np.uint8)
    pixels[: len(first)] = first
    for top, block in zip(tops[1:], blocks, strict=True):
        pixels[top : top + len(block)] = block
    return pixels


def channels_of(layout: Layout, shape: Shape) -> int:
    """The number of channels of the image as which Pillow decompresses a part."""
    if layout.compression in _IMAGE_CODECS:
        return layout.samples
    # Dividing a row by the most channels possible keeps long rows below Pillow's limit on pixels. Pillow does not
    # accept four channels with the bits of bytes in reverse.
    return next(
        number for number in ((3, 1) if layout.lowest_bit_first else (4, 3, 1)) if shape.row_bytes % number == 0
    )


def _byte_tags(channels: int) -> Fields:
    photometric = {4: Photometric.CMYK, 3: Photometric.RGB, 1: Photometric.BLACK_IS_ZERO}[channels]
    return {
        Tag.SAMPLES_PER_PIXEL: (_SHORT, channels),
        Tag.BITS_PER_SAMPLE: (_SHORT, 8),
        Tag.PHOTOMETRIC: (_SHORT, int(photometric)),
    }


def _image_tags(layout: Layout) -> Fields:
    """The tags that codecs of whole images need. JPEG returns RGB for YCbCr."""
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


def _tiff(tags: Fields, strips: list[memoryview]) -> bytes:
    """A little-endian TIFF, which holds the only copy of the strips."""
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
    body = sum(len(strip) for strip in strips)
    outside = b""
    directory = struct.pack("<H", len(entries))
    first_outside = 8 + body + 2 + 12 * len(entries) + 4
    for tag, (kind, count, content) in sorted(entries.items()):
        field = content
        if len(content) > 4:
            field = struct.pack("<I", first_outside + len(outside))
            outside += content
        directory += struct.pack("<HHI4s", tag, kind, count, field)
    return b"".join([b"II*\0", struct.pack("<I", 8 + body), *strips, directory, bytes(4), outside])
