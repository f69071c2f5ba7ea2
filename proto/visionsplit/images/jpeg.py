"""JPEG: selects the segments of a file that the decoder receives.

Cameras and editors store thumbnails, profiles, depth maps and texts in application segments, which are often damaged.
Only the two that define the colour encoding (JFIF and Adobe) reach the decoder; the EXIF is returned separately.
"""

import io
import re
import struct
from dataclasses import dataclass

from PIL.JpegImagePlugin import JpegImageFile

from visionsplit.errors import InvalidImageError
from visionsplit.images.part_counts import PartCount, find

_EOI = b"\xff\xd9"
_SCAN = b"\xff\xda"
_RESTARTS = b"\xff\xdd"  # defines the interval of restart markers
_SOI_MARKER, _EOI_MARKER, _SCAN_MARKER = 0xD8, 0xD9, 0xDA
# Arbitrary bytes without 0xff. Several are needed, since some bit patterns are the code of an empty block.
_CONTINUATIONS = (bytes(n * n * 37 % 251 for n in range(1, 200)), b"\xa9\x17\x6e\xd3\x3c" * 40, b"\xfe\x81" * 100)
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length: TEM and restarts
_APPLICATION = range(0xE0, 0xF0)
_COMMENT = 0xFE
_COLOUR_SEGMENTS = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}  # their first bytes and their minimum length
_EXIF = 0xE1
_EXIF_START = b"Exif\0\0"
_NO_FILL = re.compile(rb"[^\xff]")  # any number of bytes 0xff may precede a marker
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # after a scan's bytes, in which 0xff is followed by 0
_MOST_SEGMENT_BYTES = 1 << 16
_MOST_SEGMENTS = 10_000
_MOST_TABLES = 200  # segments that are kept; usual files have about ten
_MOST_TABLE_BYTES = 1 << 13  # of one segment; tables for all components take about three thousand
_MOST_SCANS = 50  # each scan covers all blocks of the image; progressive files have about ten
_MOST_PIXELS_WITHOUT_END = 16_000_000  # `ended` decodes the file several times


@dataclass(frozen=True)
class JpegFile:
    """A JPEG without the parts that its pixels do not need."""

    tables: bytes  # the segments needed before the first scan
    exif: bytes  # of the first EXIF segment, empty if there is none
    source: bytes  # the file
    scan: int  # offset of the first scan

    @property
    def head(self) -> bytes:
        """The part of the file that shows its size, with the header of the first scan."""
        return self.tables + self.source[self.scan : self.scan + _MOST_SEGMENT_BYTES]

    @property
    def data(self) -> bytes:
        return self.tables + memoryview(self.source)[self.scan :]


def split(data: bytes) -> JpegFile:
    """Drop the application segments and comments before the first scan, and any bytes between segments.

    Raises:
        InvalidImageError: there is no scan, or there are too many segments.
    """
    tables, exif, start = bytearray(data[:2]), b"", 2
    segments = PartCount("segments in the JPEG", most=_MOST_SEGMENTS)
    needed = PartCount("tables in the JPEG", most=_MOST_TABLES)
    while (start := data.find(b"\xff", start)) >= 0:
        segments.add()
        place = find(_NO_FILL, data, start)
        marker = data[place] if place >= 0 else _EOI_MARKER
        if marker == _SCAN_MARKER:
            return JpegFile(bytes(tables), exif, data, place - 1)
        if marker in (_SOI_MARKER, _EOI_MARKER):
            break
        start = place + 1
        if marker in _ALONE or marker == 0:
            continue
        start += int.from_bytes(data[start : start + 2], "big")
        content = data[place + 3 : start]
        if marker == _EXIF and content.startswith(_EXIF_START) and not exif:
            exif = content
        kept = _needed_part(marker, content)
        if kept is not None:
            needed.add()
            tables += struct.pack(">BBH", 0xFF, marker, len(kept) + 2) + kept
    raise InvalidImageError("the JPEG is cut off or broken: it has no pixels")


def check_scans(file: JpegFile) -> None:
    """Limit the number of scans.

    Raises:
        InvalidImageError: the file's first image has so many scans that decoding it would take minutes.
    """
    data, start = file.source, file.scan
    if data.count(_SCAN, start) <= _MOST_SCANS:  # counts in the whole file, which may hold a video after the image
        return
    segments = PartCount("segments in the JPEG", most=_MOST_SEGMENTS)
    scans = PartCount("scans in the JPEG", most=_MOST_SCANS)
    while 0 <= start < len(data) - 1 and data[start + 1] != _EOI_MARKER:
        segments.add()
        if data[start + 1] == _SCAN_MARKER:
            scans.add()
        start = find(_NEXT_MARKER, data, start + 2 + int.from_bytes(data[start + 2 : start + 4], "big"))


def _needed_part(marker: int, content: bytes) -> bytes | None:
    """The part of a segment that the pixels need; None for a segment that is dropped."""
    if marker in _COLOUR_SEGMENTS:
        signature, least = _COLOUR_SEGMENTS[marker]
        return content[:least] if content.startswith(signature) and len(content) >= least else None
    if marker in _APPLICATION or marker == _COMMENT:
        return None
    return content[:_MOST_TABLE_BYTES]


def lacks_end(data: bytes) -> bool:
    """Whether the file's end marker is missing. Some IP cameras do not write it."""
    return data.rfind(_EOI) < data.rfind(_SCAN)


def ended(data: bytes) -> bytes:
    """Append a missing end marker if the pixels are complete; otherwise return the file unchanged.

    After a complete scan the decoder skips all further bytes; in a truncated scan they become pixels. So the pixels are
    complete if several different continuations all give the same ones. This test fails where further scans may be
    missing, where restart markers end the skipping, and where the file is padded with zeros.
    """
    whole = data.removesuffix(_EOI[:1])
    image = JpegImageFile(io.BytesIO(whole))
    if image.width * image.height > _MOST_PIXELS_WITHOUT_END:
        return data
    scan = whole.rfind(_SCAN)
    one_scan = whole.count(_SCAN) == 1 and _RESTARTS not in whole and "progressive" not in image.info
    if not one_scan or whole[scan + 4 : scan + 5] != bytes([image.layers]) or whole.endswith(b"\0\0"):
        return data
    as_it_is = _pixels(whole + _EOI)
    return whole + _EOI if all(_pixels(whole + more + _EOI) == as_it_is for more in _CONTINUATIONS) else data


def _pixels(data: bytes) -> bytes:
    return JpegImageFile(io.BytesIO(data)).tobytes()
