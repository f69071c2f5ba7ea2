"""WebP: selects the chunks of a file that the decoder receives."""

import struct
from dataclasses import dataclass

from visionsplit.errors import InvalidImageError
from visionsplit.images.part_counts import PartCount

_FIRST = 12  # offset of the first chunk, after "RIFF", the length and "WEBP"
_IMAGES = frozenset({b"VP8 ", b"VP8L"})
_KEPT = frozenset({b"VP8X", b"ANIM", b"ALPH"}) | _IMAGES
_FRAME = b"ANMF"
_METADATA_FLAGS = 0x2C  # in VP8X: the file has a profile, EXIF, XMP
_MOST_CHUNKS = 20_000
_LOSSY_START = b"\x9d\x01\x2a"


@dataclass(frozen=True)
class WebpFile:
    """A WebP without the parts that the pixels of its first frame do not need."""

    data: bytes
    exif: bytes  # empty if there is none
    size: tuple[int, int]  # of the canvas


def split(data: bytes) -> WebpFile:
    """Read a file's chunks.

    Raises:
        InvalidImageError: the file has too many chunks, or its size cannot be read.
    """
    view, start, count = memoryview(data), _FIRST, PartCount("chunks in the WebP", most=_MOST_CHUNKS)
    kept: list[bytes | memoryview] = []
    exif, has_image = b"", False
    while start + 8 <= len(data):
        count.add()
        name = data[start : start + 4]
        length = int.from_bytes(view[start + 4 : start + 8], "little")
        chunk = view[start : start + 8 + length + length % 2]
        if name == b"VP8X" and len(chunk) > 8:
            kept.append(b"".join([chunk[:8], bytes([chunk[8] & ~_METADATA_FLAGS]), chunk[9:]]))
        elif name in _KEPT or (name == _FRAME and not has_image):
            kept.append(chunk)
        elif name == b"EXIF" and not exif:
            exif = bytes(chunk[8 : 8 + length])
        has_image = has_image or name in _IMAGES or name == _FRAME
        start += len(chunk)
    body = b"WEBP" + b"".join(kept)
    return WebpFile(b"RIFF" + struct.pack("<I", len(body)) + body, exif, _size(data))


def _size(data: bytes) -> tuple[int, int]:
    name, content = data[_FIRST : _FIRST + 4], data[_FIRST + 8 : _FIRST + 18]
    if name == b"VP8 " and len(content) == 10 and content[3:6] == _LOSSY_START:
        width, height = struct.unpack_from("<HH", content, 6)
        return width & 0x3FFF, height & 0x3FFF
    if name == b"VP8L" and len(content) >= 5:
        bits = int.from_bytes(content[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if name == b"VP8X" and len(content) == 10:
        return int.from_bytes(content[4:7], "little") + 1, int.from_bytes(content[7:10], "little") + 1
    raise InvalidImageError("the WebP is cut off or broken: it does not tell its size")
