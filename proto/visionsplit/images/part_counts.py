"""Limits on the parts of a file that Python code iterates over before the decoder starts.

Decoders process a file's pixels in C. Its segments, chunks and blocks are iterated over in Python, which holds the
interpreter lock, so a file with millions of them would block every other image. The limit leaves room for the largest
files that cameras and editors write: an animation of thousands of frames, a PNG in chunks of a kilobyte.
"""

import re
from collections.abc import Iterator

from visionsplit.errors import InvalidImageError

MOST_PARTS = 50_000
_WINDOW_BYTES = 1 << 20


class PartCount:
    """Counts the parts of one file."""

    def __init__(self, what: str, most: int = MOST_PARTS) -> None:
        """`what` names the parts and their location, such as "segments in the JPEG"."""
        self._what = what
        self._most = most
        self._count = 0

    def add(self) -> None:
        """Count one part.

        Raises:
            InvalidImageError: the file has more parts than the limit.
        """
        self._count += 1
        if self._count > self._most:
            raise InvalidImageError(f"more than {self._most} {self._what} are not supported")


def find(pattern: re.Pattern[bytes], data: bytes, start: int) -> int:
    """The position at which a pattern of one or two bytes is found from `start` on; -1 if it is not found.

    The search proceeds in windows, since a single search holds the interpreter lock until its end.
    """
    while start < len(data):
        found = pattern.search(data, start, start + _WINDOW_BYTES)
        if found:
            return found.start()
        start += _WINDOW_BYTES - 1  # windows overlap by a byte, as a match may lie across their border
    return -1


def boxes(data: bytes, start: int, end: int, count: PartCount) -> Iterator[tuple[bytes, int, int]]:
    """The boxes of a JPEG 2000, AVIF or HEIF file in a range: their types, and the start and end of their contents."""
    while start + 8 <= end:
        count.add()
        length, name = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        content = start + 8
        if length == 1:
            length = int.from_bytes(data[content : content + 8], "big")
            content += 8
        stop = end if length == 0 else min(start + length, end)
        if stop < content:  # the box is shorter than its header, and the decoder will refuse the file
            return
        yield name, content, stop
        start = stop
