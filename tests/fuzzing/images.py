"""Files that claim to be images: truncated, damaged, far too large, or of another type."""

import io
import random
import struct
import zlib
from collections.abc import Callable

from PIL import Image

from tests.fuzzing.messages import damaged

MAX_PIXELS = 2_000_000  # that the services under test take

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_MODES = {
    "PNG": ("1", "L", "LA", "I;16", "P", "RGB", "RGBA"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("1", "L", "P"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "I;16", "P", "RGB", "RGBA", "CMYK", "F", "YCbCr", "I"),
    "PPM": ("1", "L", "RGB"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA", "I;16"),
    "AVIF": ("RGB", "RGBA"),
}
_MAGIC = (
    *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"II*\x00", b"MM\x00*", b"P6\n", b"P7\n"),
    *(b"RIFF\xff\xff\xff\xffWEBP", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.7\n", b"8BPS", b"\x00\x00\x01\x00"),
    *(
        b"\0\0\0\x0cjP  \r\n\x87\n",
        b"\xff\x4f\xff\x51",
        b"\0\0\0\x1cftypavif",
        b"\0\0\0\x1cftypheic",
        b"II+\0\x08\0\0\0",
    ),
    *(b"<svg xmlns='http://www.w3.org/2000/svg'>", b"PK\x03\x04", b"#!/bin/sh\n", b"<html>", b"\x1f\x8b\x08"),
)


def hostile_image(rng: random.Random) -> bytes:
    """One of the kinds below."""
    return rng.choice(_KINDS)(rng)


def sound_image(rng: random.Random, kind: str | None = None, size: tuple[int, int] | None = None) -> bytes:
    """A small image that decodes, of any format, mode and shape."""
    kind = kind or rng.choice(_FORMATS)
    width, height = size or rng.choice(((1, 1), (60, 60), (9, 200), (200, 7), (128, 96), (1, 500), (500, 1)))
    mode = rng.choice(_MODES[kind])
    image = Image.frombytes("L", (width, height), rng.randbytes(width * height))
    image = (image.convert("RGB") if mode in ("CMYK", "YCbCr") else image).convert(mode)
    buffer = io.BytesIO()
    extra = {"exif": rng.randbytes(40)} if kind in ("JPEG", "PNG", "WEBP") and rng.random() < 0.3 else {}
    image.save(buffer, kind, **extra)
    return buffer.getvalue()


def _cut_off(rng: random.Random) -> bytes:
    data = sound_image(rng)
    return data[: rng.randrange(len(data))]


def _broken(rng: random.Random) -> bytes:
    return damaged(rng, sound_image(rng))


def _wrong_type(rng: random.Random) -> bytes:
    return rng.choice(_MAGIC) + rng.randbytes(rng.choice((0, 10, 300)))


def _bomb(rng: random.Random) -> bytes:
    """A PNG of a few bytes that announces up to 2**31 pixels a side."""
    width, height = (rng.choice((0, 1, 2000, 65535, 2**31 - 1)) for _ in "wh")
    pixels = zlib.compress(b"\0" * 100_000, 9)
    return _png(struct.pack(">IIBBBBB", width, height, 8, rng.choice((0, 2, 3, 6)), 0, 0, 0), [(b"IDAT", pixels)])


def _bomb_inside(rng: random.Random) -> bytes:
    """A small image with a text or profile that unpacks to 60 MB."""
    inflated = zlib.compress(b"\0" * 60_000_000, 9)
    kind, head = rng.choice(((b"zTXt", b"x\0\0"), (b"iCCP", b"x\0\0"), (b"iTXt", b"x\0\1\0\0\0")))
    row = zlib.compress((b"\0" + b"\x55" * 24) * 8)
    return _png(struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0), [(kind, head + inflated), (b"IDAT", row)])


def _corrupt_chunk(rng: random.Random) -> bytes:
    """A PNG with a chunk of a known name and content by chance, its checksum right or wrong."""
    row = zlib.compress((b"\0" + b"\x55" * 24) * 8)
    name = rng.choice((b"PLTE", b"tRNS", b"gAMA", b"cHRM", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"pHYs", b"IHDR"))
    chunks = [(name, rng.randbytes(rng.choice((0, 1, 4, 13, 26, 300)))), (b"IDAT", row)]
    rng.shuffle(chunks)
    data = _png(struct.pack(">IIBBBBB", 8, 8, 8, rng.choice((2, 3)), 0, 0, 0), chunks)
    return data if rng.random() < 0.7 else damaged(rng, data)


def _many_frames(rng: random.Random) -> bytes:
    frames = [Image.frombytes("P", (20, 20), rng.randbytes(400)) for _ in range(30)]
    buffer = io.BytesIO()
    frames[0].save(buffer, rng.choice(("GIF", "TIFF")), save_all=True, append_images=frames[1:])
    return damaged(rng, buffer.getvalue()) if rng.random() < 0.5 else buffer.getvalue()


def _huge_header(rng: random.Random) -> bytes:
    """The size of a sound file overwritten by a far larger one."""
    data = bytearray(sound_image(rng, rng.choice(("BMP", "GIF", "TIFF", "PPM", "JPEG", "WEBP")), (60, 60)))
    for _ in range(2):
        start = rng.randrange(min(len(data) - 4, 200))
        data[start : start + 4] = rng.choice(
            (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0")
        )
    return bytes(data)


def _png(header: bytes, chunks: list[tuple[bytes, bytes]]) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in [(b"IHDR", header), *chunks, (b"IEND", b"")])


_KINDS: tuple[Callable[[random.Random], bytes], ...] = (
    *(sound_image, _cut_off, _broken, _wrong_type, _bomb, _bomb_inside, _corrupt_chunk, _many_frames, _huge_header),
)
