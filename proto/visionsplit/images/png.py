"""PNG: selects the chunks of a file that the decoder receives, and applies the transparent colour.

Only chunks that define the pixels reach the decoder. Texts, profiles, times and other chunks are dropped, so that
neither their size nor damage in them decides whether the image can be read, and their decompressed content takes no
memory.
"""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from visionsplit.errors import InvalidImageError
from visionsplit.images.part_counts import PartCount
from visionsplit.images.pixels import Box, boxes, to_rgb
from visionsplit.images.scaling import Samples, of_bits

_SIGNATURE_BYTES = 8
_CHUNK_START = struct.Struct(">I4s")  # length and name; a checksum of 4 bytes ends it
_CHECKSUM_BYTES = 4
_HEAD = (b"IHDR", b"PLTE", b"tRNS")  # the chunks before the pixels that define them
_MOST_HEADS = 100  # limit on chunks of these names, of which a valid file has one each
_MOST_HEAD_BYTES = 1 << 10  # limit on the content of one: a palette of 256 colours takes 768
_GREY, _COLOUR, _GREY_ALPHA, _COLOUR_ALPHA = 0, 2, 4, 6  # colour types


PIXELS_BEGIN = b"\0\0\0\0IDAT"  # must follow `PngFile.head` for a decoder to read the size


@dataclass(frozen=True)
class PngFile:
    """A PNG without the parts that its pixels do not need."""

    head: bytes  # the chunks before the pixels
    pixels: Sequence[memoryview]  # their compressed bytes, chunk by chunk
    complete: bool  # whether the file contains its last chunk
    exif: bytes  # of the first eXIf chunk, empty if there is none
    depth: int  # bits per sample
    colour_type: int
    key: tuple[int, ...] | None  # the samples of the transparent colour: one, or red, green and blue

    @property
    def data(self) -> bytes:
        """A file whose pixels are in a single chunk, since the decoder starts each chunk in Python."""
        length = sum(map(len, self.pixels))
        chunks = [_chunk(b"IDAT", *self.pixels)] if length else []
        return b"".join([self.head, *chunks, _chunk(b"IEND") if self.complete else b""])


def split(data: bytes) -> PngFile:
    """Read a file's chunks.

    Raises:
        InvalidImageError: the variant of PNG is not supported, or there are too many chunks.
    """
    head: dict[bytes, bytes] = {}  # the last chunk of each name counts
    pixels: list[memoryview] = []
    exif = b""
    key: tuple[int, ...] | None = None
    depth = colour_type = 0
    name, repeated = b"", PartCount("headers and palettes in the PNG", most=_MOST_HEADS)
    for name, content in _chunks(data):
        if name == b"IDAT":
            pixels.append(content)
        elif name == b"CgBI":
            raise InvalidImageError("a PNG in Apple's CgBI variant is not supported")
        elif name == b"eXIf" and not exif:
            exif = bytes(content)
        elif name not in _HEAD or pixels:
            continue
        elif name == b"tRNS" and colour_type in (_GREY, _COLOUR):
            key = _key(content, depth, colour_type)  # Pillow compares it with pixels already scaled to 8 bits
        else:
            repeated.add()
            head[name] = _chunk(name, content[:_MOST_HEAD_BYTES])
            if name == b"IHDR" and len(content) >= 10:
                depth, colour_type = content[8], content[9]
    chunks = b"".join(head[name] for name in _HEAD if name in head)
    return PngFile(data[:_SIGNATURE_BYTES] + chunks, pixels, name == b"IEND", exif, depth, colour_type, key)


def decode(file: PngFile, image: Image.Image) -> Image.Image:
    """The loaded image of a file as RGB, with its transparent colour over white."""
    if file.depth == 16 and file.colour_type in (_COLOUR, _GREY_ALPHA, _COLOUR_ALPHA):
        return _decode_wide(file, image)
    if file.key is not None and file.colour_type == _GREY:
        # Below 16 bits, Pillow has spread the values over 0..255.
        image.info["transparency"] = file.key[0] if file.depth == 16 else file.key[0] * 255 // (2**file.depth - 1)
    elif file.key is not None:
        image.info["transparency"] = file.key
    return to_rgb(image)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Name and content of each chunk, up to IEND. A truncated chunk is yielded too, for the decoder to refuse."""
    view, start, chunks = memoryview(data), _SIGNATURE_BYTES, PartCount("chunks in the PNG")
    while start + 8 <= len(data):
        chunks.add()
        length, name = _CHUNK_START.unpack_from(data, start)
        start += _CHUNK_START.size
        yield name, view[start : start + length]
        if name == b"IEND":
            return
        start += length + _CHECKSUM_BYTES


def _chunk(name: bytes, *contents: bytes | memoryview) -> bytes:
    content = b"".join([name, *contents])
    return b"".join([struct.pack(">I", len(content) - len(name)), content, struct.pack(">I", zlib.crc32(content))])


def _key(content: memoryview, depth: int, colour_type: int) -> tuple[int, ...] | None:
    """The samples of the transparent colour; only their lower bits count."""
    count = 1 if colour_type == _GREY else 3
    stored = struct.unpack_from(f">{count}H", content) if len(content) >= 2 * count else ()
    return tuple(value % 2**depth for value in stored) or None


def _decode_wide(file: PngFile, upper: Image.Image) -> Image.Image:
    """Decode colours or alpha of 16 bits. Pillow keeps only the upper bytes, so a second pass reads the lower ones."""
    if file.colour_type == _GREY_ALPHA:
        both = _load_as(file.data, "RGBA")  # the four bytes of a pixel
        read = partial(_samples_of_bytes, both)
    else:
        read = partial(_samples_of_halves, upper, _load_as(file.data, f"{upper.mode};16L"))
    rgb = Image.new("RGB", upper.size)
    for box in boxes(upper):
        samples = read(box)
        colours = of_bits(16).to_bytes(samples[:, :, :3] if samples.shape[2] > 2 else samples[:, :, :1].repeat(3, 2))
        if file.key is not None:
            colours[(samples == file.key).all(axis=2)] = 255
        if file.colour_type != _COLOUR:
            alpha = samples[:, :, -1:] / 65535.0
            colours = np.round(colours * alpha + 255 * (1 - alpha)).astype(np.uint8)
        rgb.paste(Image.fromarray(colours), box)
    return rgb


def _load_as(data: bytes, raw_mode: str) -> Image.Image:
    image = PngImageFile(io.BytesIO(data))
    image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
    image.load()
    return image


def _samples_of_halves(upper: Image.Image, lower: Image.Image, box: Box) -> Samples:
    high: Samples = np.asarray(upper.crop(box)).astype(np.uint16)  # [height, width, samples]
    samples: Samples = high << 8 | np.asarray(lower.crop(box))
    return samples


def _samples_of_bytes(image: Image.Image, box: Box) -> Samples:
    samples: Samples = np.asarray(image.crop(box)).view(">u2")  # [height, width, 2]
    return samples
