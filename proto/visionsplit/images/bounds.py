"""How much of a file is looked at in Python before its decoder begins.

Decoders walk a file's pixels in C. Its segments, chunks and blocks are walked in Python, which holds the interpreter's
lock, so that a file of millions of them would stop every other image. The bound leaves room for the largest files that
cameras and editors write: an animation of thousands of frames, a PNG in chunks of a kilobyte.
"""

import re
from collections.abc import Iterator

from visionsplit.errors import InvalidImageError

MOST_PARTS = 50_000
_WINDOW_BYTES = 1 << 20


class PartCount:
    """Counts what is walked of one file."""

    def __init__(self, what: str, most: int = MOST_PARTS) -> None:
        """`what` names the parts and where they are, such as "segments in the JPEG"."""
        self._what = what
        self._most = most
        self._count = 0

    def add(self) -> None:
        """
        Raises:
            InvalidImageError: the file has more parts than are walked.
        """
        self._count += 1
        if self._count > self._most:
            raise InvalidImageError(f"more than {self._most} {self._what} are not supported")


def find(pattern: re.Pattern[bytes], data: bytes, start: int) -> int:
    """Where a pattern of one or two bytes is found from a place on; -1 if nowhere.

    It is searched for in windows, since a search holds the interpreter's lock until its end.
    """
    while start < len(data):
        found = pattern.search(data, start, start + _WINDOW_BYTES)
        if found:
            return found.start()
        start += _WINDOW_BYTES - 1  # what is searched for may lie across the end of the window
    return -1


def boxes(data: bytes, start: int, end: int, count: PartCount) -> Iterator[tuple[bytes, int, int]]:
    """The boxes of a JPEG 2000, AVIF or HEIF file in a range: their types, and where their contents begin and end."""
    while start + 8 <= end:
        count.add()
        length, name = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        content = start + 8
        if length == 1:
            length = int.from_bytes(data[content : content + 8], "big")
            content += 8
        stop = end if length == 0 else min(start + length, end)
        if stop < content:  # shorter than its own header: the decoder refuses the file
            return
        yield name, content, stop
        start = stop
