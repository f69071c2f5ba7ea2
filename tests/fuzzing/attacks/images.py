"""Image files that cost far more to read than to send."""

import asyncio
import io
import random
import struct
import time
import zlib
from collections.abc import Callable

from PIL import Image
from visionsplit.v1 import encoder_service_pb2

from tests.fuzzing.attacks.base import Attack, counted
from tests.fuzzing.attacks.target import ENCODER, MIB, Target
from tests.fuzzing.images import _png

_ENCODE = f"{ENCODER}/Encode"


def _file(size: tuple[int, int], kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (90, 120, 30)).save(buffer, kind, **options)
    return buffer.getvalue()


def _jpeg_comments() -> bytes:
    data = _file((64, 64), "JPEG")
    return data[:2] + b"\xff\xfe\x00\x02" * 12_000_000 + data[2:]


def _jpeg_fill() -> bytes:
    """Fill bytes before a marker, as the format allows."""
    data = _file((64, 64), "JPEG")
    return data[:2] + b"\xff" * (40 * MIB) + data[2:]


def _ppm_comment() -> bytes:
    return b"P6\n#" + b"a" * (40 * MIB) + b"\n8 8\n255\n" + bytes(192)


def _ppm_lines() -> bytes:
    return b"P6\n" + b"#\n" * (20 * MIB) + b"8 8\n255\n" + bytes(192)


def _png_texts() -> bytes:
    row = zlib.compress((b"\0" + b"\x55" * 24) * 8)
    return _png(struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0), [(b"tEXt", b"a\0b")] * 600_000 + [(b"IDAT", row)])


def _png_parts() -> bytes:
    """The pixels in a million chunks of a byte or none."""
    row = zlib.compress((b"\0" + b"\x55" * 24) * 8)
    parts = [(b"IDAT", row[place : place + 1]) for place in range(len(row))] + [(b"IDAT", b"")] * 1_000_000
    return _png(struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0), parts)


def _gif_comments() -> bytes:
    data = _file((64, 64), "GIF")
    place = 13 + 3 * (2 << (data[10] & 7)) if data[10] & 0x80 else 13
    return data[:place] + b"\x21\xfe\x01a\x00" * 8_000_000 + data[place:]


def _gif_blocks() -> bytes:
    """One comment of twenty million blocks."""
    data = _file((64, 64), "GIF")
    place = 13 + 3 * (2 << (data[10] & 7)) if data[10] & 0x80 else 13
    return data[:place] + b"\x21\xfe" + b"\x01a" * (20 * MIB) + b"\x00" + data[place:]


def _webp_chunks() -> bytes:
    data = _file((64, 64), "WEBP", lossless=True)
    body = data[12:] + b"ABCD\0\0\0\0" * 5_000_000
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _tiff_directories() -> bytes:
    """Four million directories, each of no entry, in a chain."""
    count = 4_000_000
    head = b"II*\0" + struct.pack("<I", 8)
    return head + b"".join(struct.pack("<HI", 0, 8 + 6 * (number + 1)) for number in range(count))


def _tiff_entries() -> bytes:
    return b"II*\0" + struct.pack("<IH", 8, 65535) + struct.pack("<HHII", 270, 2, 40 * MIB, 8) * 65535 + bytes(40 * MIB)


def _boxes() -> bytes:
    """An AVIF that begins with five million empty boxes."""
    return b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + b"\0\0\0\x08free" * 5_000_000


def _jpeg2000_boxes() -> bytes:
    return b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 \0\0\0\0jp2 " + b"\0\0\0\x08free" * 5_000_000


_HEADERS: dict[str, Callable[[], bytes]] = {
    "jpeg-comments": _jpeg_comments,
    "jpeg-fill": _jpeg_fill,
    "ppm-comment": _ppm_comment,
    "ppm-lines": _ppm_lines,
    "png-texts": _png_texts,
    "png-parts": _png_parts,
    "gif-comments": _gif_comments,
    "gif-blocks": _gif_blocks,
    "webp-chunks": _webp_chunks,
    "tiff-directories": _tiff_directories,
    "tiff-entries": _tiff_entries,
    "avif-boxes": _boxes,
    "jpeg2000-boxes": _jpeg2000_boxes,
}


def _request(data: bytes) -> bytes:
    return encoder_service_pb2.EncodeRequest(image=encoder_service_pb2.Image(data=data)).SerializeToString()


def _header_attack(name: str, make: Callable[[], bytes]) -> Attack:
    async def run(target: Target, seconds: float) -> str:
        request = await asyncio.to_thread(lambda: _request(make()))
        started = time.monotonic()
        status = await target.call(_ENCODE, request, seconds=seconds + 60)
        return f"{status} after {time.monotonic() - started:.2f} s ({len(request) / MIB:.0f} MiB)"

    return Attack(f"images/{name}", run, quick=name == "ppm-lines")


def _many_pixels(name: str, size: tuple[int, int], kind: str, *, at_once: int) -> Attack:
    async def run(target: Target, seconds: float) -> str:
        file = await asyncio.to_thread(_file, size, kind)
        # A unique comment makes each file new to the cache.
        requests = [_request(file + random.Random(number).randbytes(8)) for number in range(at_once)]
        started = time.monotonic()
        outcomes = await asyncio.gather(*(target.call(_ENCODE, one, seconds=seconds + 60) for one in requests))
        return f"{counted(outcomes)} after {time.monotonic() - started:.1f} s ({len(file) / MIB:.1f} MiB each)"

    return Attack(f"images/{name}", run)


IMAGE_ATTACKS = (
    *(_header_attack(name, make) for name, make in _HEADERS.items()),
    _many_pixels("pixels-jpeg", (8000, 7990), "JPEG", at_once=6),
    _many_pixels("pixels-png", (8000, 7990), "PNG", at_once=6),
    _many_pixels("pixels-webp", (8000, 7990), "WEBP", at_once=4),
    _many_pixels("strips-wide", (60_000, 60), "JPEG", at_once=6),
    _many_pixels("strips-high", (4, 60_000), "PNG", at_once=6),
)
