"""JPEG: what is handed to the decoder of a file's segments.

Cameras and editors store thumbnails, profiles, depth maps and texts in application segments, often broken ones. Only
those two reach the decoder that say how the colours are stored (JFIF and Adobe); the EXIF comes beside the file.
"""

from dataclasses import dataclass

_SOS = 0xDA
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
