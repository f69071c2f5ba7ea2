"""PNG: what is handed to the decoder of a file's chunks, and the transparent colour.

Only chunks that say what the pixels are reach the decoder. Texts, profiles, times and whatever else programs store in a
PNG are left out, so that neither their size nor a fault in them decides whether the image is read, and nothing that
they would unpack to takes memory.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from visionsplit.errors import InvalidImageError
from visionsplit.images.pixels import boxes, to_rgb

_SIGNATURE_BYTES = 8
_CHUNK_OVERHEAD = 12  # length, name and checksum
_KEPT = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_GREY, _COLOUR = 0, 2  # colour types in which tRNS names one transparent colour


@dataclass(frozen=True)
class PngFile:
    """A PNG without what its pixels do not need."""

    data: bytes
    exif: bytes  # of the first eXIf chunk, empty without one
    depth: int  # bits of a sample
    key: tuple[int, ...] | None  # the samples of the transparent colour: one, or red, green and blue


def split(data: bytes) -> PngFile:
    """
    Raises:
        InvalidImageError: a variant of PNG that is not supported.
    """
    kept: list[bytes | memoryview] = [data[:_SIGNATURE_BYTES]]
    exif = b""
    key: tuple[int, ...] | None = None
    depth = colour_type = 0
    for name, chunk in _chunks(data):
        content = chunk[8:-4]
        if name == b"CgBI":
            raise InvalidImageError("a PNG in Apple's CgBI variant is not supported")
        if name == b"IHDR" and len(content) >= 10:
            depth, colour_type = content[8], content[9]
        elif name == b"tRNS" and colour_type in (_GREY, _COLOUR):
            count = 1 if colour_type == _GREY else 3
            stored = struct.unpack_from(f">{count}H", content) if len(content) >= 2 * count else ()
            key = tuple(value % 2**depth for value in stored) or None  # only the lower bits count
            continue  # Pillow compares the colour with pixels that it has already scaled or cut to 8 bits
        elif name == b"eXIf" and not exif:
            exif = bytes(content)
        if name in _KEPT:
            kept.append(chunk)
    return PngFile(b"".join(kept), exif, depth, key)


def decode(file: PngFile, image: Image.Image) -> Image.Image:
    """The loaded image of a file as RGB, its transparent colour over white."""
    key = file.key
    if key is None:
        return to_rgb(image)
    if len(key) == 1:
        # Below 16 bits, Pillow has spread the values over 0..255.
        image.info["transparency"] = key[0] if file.depth == 16 else key[0] * 255 // (2**file.depth - 1)
        return to_rgb(image)
    if file.depth == 8:
        image.info["transparency"] = key
        return to_rgb(image)
    return _without_colour(image, _low_bytes(file.data), key)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Name and bytes of each chunk, up to IEND. What is cut off comes as it is, for the decoder to refuse."""
    view, start = memoryview(data), _SIGNATURE_BYTES
    while start + 8 <= len(data):
        length = int.from_bytes(view[start : start + 4], "big")
        name = bytes(view[start + 4 : start + 8])
        end = start + length + _CHUNK_OVERHEAD
        yield name, view[start:end]
        if name == b"IEND":
            return
        start = end


def _low_bytes(data: bytes) -> Image.Image:
    """The lower bytes of 16-bit colour, of which Pillow keeps the upper ones: those of the other byte order."""
    image = PngImageFile(io.BytesIO(data))
    image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
    image.load()
    return image


def _without_colour(high: Image.Image, low: Image.Image, key: tuple[int, ...]) -> Image.Image:
    rgb = high.copy()
    for box in boxes(high):
        upper, lower = np.asarray(high.crop(box)), np.asarray(low.crop(box))  # [height, width, 3]
        equal = (upper == np.right_shift(key, 8)).all(axis=2) & (lower == np.bitwise_and(key, 255)).all(axis=2)
        if equal.any():
            block = upper.copy()
            block[equal] = 255
            rgb.paste(Image.fromarray(block), box)
    return rgb
