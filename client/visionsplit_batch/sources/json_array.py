"""Yields the elements of a JSON array of any length, with each element's location in the file."""

import io
import re
from collections.abc import Iterator

from visionsplit_batch.errors import InputError

# Whole strings, and structural characters outside of strings. A string without an end extends to the end of the text.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\(?:.|\Z))*+(?:"|(?P<cut>\Z))|[\[\]{},]', re.DOTALL)
_CHUNK_BYTES = 1 << 20
_SPACE = b" \t\r\n"


def array_elements(file: io.BufferedReader, location: str, longest: int) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each element of the array in the file. The content of an element is not checked.

    Args:
        file: positioned at its beginning; UTF-8.
        location: the file's location, for errors.
        longest: limit on the bytes of an element.

    Raises:
        InputError: the array has no end, is followed by other data, or has a longer element.
    """
    return _Scan(file, location, longest).elements()


class _Scan:
    """Scans a file. `_buffer` begins at offset `_base` of the file and with the start of the unfinished element."""

    def __init__(self, file: io.BufferedReader, location: str, longest: int) -> None:
        self._file = file
        self._location = location
        self._longest = longest
        self._base = 0
        self._buffer = b""

    def elements(self) -> Iterator[tuple[int, bytes]]:
        depth = position = start = 0
        while True:
            for token in _TOKEN.finditer(self._buffer, position):
                if token["cut"] is not None:
                    position = token.start()
                    break
                position, sign = token.end(), token[0]
                if sign in b"[{":
                    depth += 1
                    start = position if depth == 1 else start
                elif sign in b"]}":
                    depth -= 1
                if depth == 0 or (depth == 1 and sign == b","):
                    element = self._buffer[start : position - 1]
                    if element.strip(_SPACE) or sign == b",":
                        yield self._base + start + _blanks(element), element.strip(_SPACE)
                    start = position
                if depth == 0:
                    self._check_end(position)
                    return
            else:
                position = len(self._buffer)
            self._base += start
            self._buffer, position, start = self._more(self._buffer[start:]), position - start, 0

    def _more(self, kept: bytes) -> bytes:
        if len(kept) > self._longest:
            raise InputError(f"{self._location}: the element at byte {self._base} has more than {self._longest} bytes")
        # The buffer doubles, so that a long element is not scanned too often.
        more = self._file.read(max(_CHUNK_BYTES, len(kept)))
        if not more:
            raise InputError(f"{self._location}: the array has no end; the element at byte {self._base} is cut off")
        return kept + more

    def _check_end(self, position: int) -> None:
        rest = self._buffer[position:]
        while not rest.strip(_SPACE):
            position += len(rest)
            rest = self._file.read(_CHUNK_BYTES)
            if not rest:
                return
        raise InputError(f"{self._location}: other data follows the array at byte {self._base + position}")


def _blanks(element: bytes) -> int:
    return len(element) - len(element.lstrip(_SPACE))
