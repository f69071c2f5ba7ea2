"""JPEG: what is handed to the decoder of a file's segments.

Cameras and editors store thumbnails, profiles, depth maps and texts in application segments, often broken ones. Only
those two reach the decoder that say how the colours are stored (JFIF and Adobe); the EXIF comes beside the file.
"""

import io
from dataclasses import dataclass

from PIL.JpegImagePlugin import JpegImageFile

_EOI = b"\xff\xd9"
_SCAN = b"\xff\xda"
_RESTARTS = b"\xff\xdd"  # defines the interval of restart markers
_SOS = 0xDA
# Arbitrary bytes without 0xff; more than one, since some bits are the code of an empty block.
_CONTINUATIONS = (bytes(n * n * 37 % 251 for n in range(1, 200)), b"\xa9\x17\x6e\xd3\x3c" * 40, b"\xfe\x81" * 100)
_ALONE = frozenset({0x01, *range(0xD0, 0xDA)})  # markers without a length: TEM, restarts, SOI, EOI
_APPLICATION = range(0xE0, 0xF0)
_COMMENT = 0xFE
_COLOUR_SEGMENTS = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}  # how they begin, and how long they are at least
_EXIF = 0xE1
_EXIF_START = b"Exif\0\0"


@dataclass(frozen=True)
class JpegFile:
    """A JPEG without what its pixels do not need."""

    data: bytes
    exif: bytes  # of the first EXIF segment, empty without one


def split(data: bytes) -> JpegFile:
    """Leave out the application segments and comments before the first scan.

    Anything unexpected ends the search; what follows is left as it is, for the decoder to judge.
    """
    view, start = memoryview(data), 2
    kept, exif = [view[:2]], b""
    while start + 4 <= len(data) and view[start] == 0xFF:
        marker = view[start + 1]
        if marker == 0xFF:  # padding
            start += 1
            continue
        if marker in _ALONE or marker == _SOS:
            break
        end = start + 2 + int.from_bytes(view[start + 2 : start + 4], "big")
        content = bytes(view[start + 4 : end])
        if marker == _EXIF and content.startswith(_EXIF_START) and not exif:
            exif = content
        if _is_needed(marker, content):
            kept.append(view[start:end])
        start = end
    return JpegFile(b"".join([*kept, view[start:]]), exif)


def _is_needed(marker: int, content: bytes) -> bool:
    if marker in _COLOUR_SEGMENTS:
        signature, least = _COLOUR_SEGMENTS[marker]
        return content.startswith(signature) and len(content) >= least
    return marker not in _APPLICATION and marker != _COMMENT


def lacks_end(data: bytes) -> bool:
    """Whether the marker is missing that ends a file. Some IP cameras do not write it."""
    return data.rfind(_EOI) < data.rfind(_SCAN)


def ended(data: bytes) -> bytes:
    """A file that lacks its end with the end, if its pixels are complete; otherwise the file as it is.

    Behind a complete scan the decoder skips whatever bytes follow; in one that is cut off they become pixels. So the
    pixels are complete if different continuations all give the same ones. This cannot be told where further scans
    may be missing, where restart markers end the decoder's skipping, nor where the file is filled up with zeros.
    """
    whole = data.removesuffix(_EOI[:1])
    image = JpegImageFile(io.BytesIO(whole))
    scan = whole.rfind(_SCAN)
    one_scan = whole.count(_SCAN) == 1 and _RESTARTS not in whole and "progressive" not in image.info
    if not one_scan or whole[scan + 4 : scan + 5] != bytes([image.layers]) or whole.endswith(b"\0\0"):
        return data
    as_it_is = _pixels(whole + _EOI)
    return whole + _EOI if all(_pixels(whole + more + _EOI) == as_it_is for more in _CONTINUATIONS) else data


def _pixels(data: bytes) -> bytes:
    return JpegImageFile(io.BytesIO(data)).tobytes()
