"""Converts bytes to samples of any width, type and order, block by block."""

from collections.abc import Iterator

import numpy as np

from visionsplit.images.pixels import Box
from visionsplit.images.scaling import Bytes, Samples
from visionsplit.images.tiff.directory import Tag
from visionsplit.images.tiff.layout import CCITT, PREDICTED, Compression, Layout
from visionsplit.images.tiff.parts import unpack_parts

BLOCK_SAMPLES = 1 << 20
_KINDS = {"uint": "u", "int": "i", "float": "f"}


def read_blocks(data: bytes, layout: Layout) -> Iterator[tuple[Box, Samples]]:
    """Blocks that cover the image, each with its samples, [height, width, samples of a pixel]."""
    planes = layout.samples if layout.separate else 1
    number = layout.parts_across * layout.parts_down
    tops = [index // layout.parts_across * layout.part_height for index in range(number)]
    heights = [layout.part_height if layout.tiled else min(layout.part_height, layout.height - top) for top in tops]
    parts = [(plane * number + index, heights[index]) for index in range(number) for plane in range(planes)]
    unpacked = unpack_parts(data, layout, parts)
    for index, top in enumerate(tops):
        left = index % layout.parts_across * layout.part_width
        width = min(layout.part_width, layout.width - left)
        stored = [next(unpacked) for _ in range(planes)]  # each [rows, row bytes]
        for start, block in _decoded(layout, stored):
            block = block[: layout.height - top - start, :width]
            if len(block):
                yield (left, top + start, left + width, top + start + len(block)), block


def _decoded(layout: Layout, stored: list[Bytes]) -> Iterator[tuple[int, Samples]]:
    """A strip's or tile's rows of pixels, some at a time: rows are independent of each other."""
    down = layout.subsampling[1]
    step = max(1, BLOCK_SAMPLES // (layout.part_width * layout.samples * down))
    for start in range(0, len(stored[0]), step):
        planes = [_decode_rows(layout, plane[start : start + step]) for plane in stored]
        yield start * down, planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)


def _decode_rows(layout: Layout, rows: Bytes) -> Samples:
    """[rows, row bytes] to [rows, width, samples]."""
    shape = len(rows), layout.part_width, layout.samples_of_part
    if layout.compression in CCITT | {Compression.JPEG}:
        return rows.reshape(shape)
    if layout.subsampling != (1, 1):
        return _share_colours(layout, rows)
    if layout.bits % 8:
        return _unpack_bits(rows, layout.bits, shape[1] * shape[2]).reshape(shape)
    predictor = layout.one(Tag.PREDICTOR, 1) if layout.compression in PREDICTED else 1
    size = layout.bits // 8
    if predictor == 3:
        return _undo_float_differences(rows, size, shape)
    values = np.ascontiguousarray(rows).view(f"{layout.order}u{size}").astype(f"u{size}").reshape(shape)
    if predictor == 2:
        values = values.cumsum(axis=1, dtype=values.dtype)
    return values.view(f"{_KINDS[layout.sample_type]}{size}")


def _unpack_bits(rows: Bytes, bits: int, count: int) -> Samples:
    """`count` values of `bits` each from every row, highest bit first."""
    separate = np.unpackbits(rows, axis=1, count=count * bits).reshape(len(rows), count, bits)
    values: Samples = np.zeros((len(rows), count), np.uint16)
    for bit in range(bits):
        values = values << 1 | separate[:, :, bit]
    return values


def _undo_float_differences(rows: Bytes, size: int, shape: tuple[int, int, int]) -> Samples:
    """Undo the predictor for floats: bytes of equal weight are stored together, as differences of neighbours."""
    height, width, samples = shape
    sums = rows.reshape(height, -1, samples).cumsum(axis=1, dtype=np.uint8)
    by_value = sums.reshape(height, size, width * samples).transpose(0, 2, 1)  # highest byte first
    return np.ascontiguousarray(by_value).view(f">f{size}").astype(f"f{size}").reshape(shape)


def _share_colours(layout: Layout, rows: Bytes) -> Samples:
    """Convert units of several pixels' luma and one chroma to pixels of three samples each."""
    across, down = layout.subsampling
    units = rows.reshape(len(rows), -1, across * down + 2)  # [rows of units, units across, samples of a unit]
    by_unit = units[:, :, :-2].reshape(*units.shape[:2], down, across)
    luma = by_unit.swapaxes(1, 2).reshape(len(rows) * down, -1, 1)
    chroma = units[:, :, -2:].repeat(across, axis=1).repeat(down, axis=0)
    return np.concatenate([luma, chroma], axis=2)[:, : layout.part_width]
