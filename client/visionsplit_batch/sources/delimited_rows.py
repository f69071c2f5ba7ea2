"""Finds the rows of CSV and TSV text with their locations, so that each can be read, or fail, by itself."""

import csv
import io
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from visionsplit_batch.sources.text import Place, decoded, is_blank, read_lines
from visionsplit_batch.storage.storage import Storage

_QUOTED = re.compile(r'"(?:[^"]|"")*"')


@dataclass(frozen=True)
class DelimitedRow:
    """A row of the text, possibly of several lines, since quoted values may contain line ends."""

    place: Place  # its number counts rows from 0
    data: bytes
    encoding: str

    def values(self, delimiter: str) -> list[str]:
        """Raises ValueError if the row is malformed, or not text in the file's encoding."""
        return values_of(decoded(self.data, self.encoding), delimiter)


@dataclass(frozen=True)
class _Line:
    offset: int
    length: int  # in the file; of a line that is too long, `data` holds less
    data: bytes
    text: str


def values_of(text: str, delimiter: str) -> list[str]:
    """The values of one row.

    Raises:
        ValueError: the row is malformed.
    """
    allow_long_values(len(text) + 1)
    try:
        (values,) = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    except (csv.Error, ValueError) as error:
        raise ValueError(f"the row cannot be split at {delimiter!r}: {error}") from error
    return values


def allow_long_values(length: int) -> None:
    """Raise the csv module's limit, which is global for the process and too low for images as base64 text."""
    if csv.field_size_limit() < length:
        csv.field_size_limit(length)


def delimiter_of(names: str, choices: str) -> str:
    """The first of the choices that appears between the columns' names; the first of all for a single column."""
    bare = _QUOTED.sub("", names)
    return next((one for one in choices if one in bare), choices[0])


def delimited_rows(storage: Storage, location: str, delimiter: str, longest: int) -> Iterator[DelimitedRow]:
    """Yield each row that is not empty. A malformed or too long row counts as one line, and the next begins after it.

    Raises:
        OSError: the file cannot be read.
    """
    allow_long_values(longest)
    reader = _LineReader(storage, location, longest)
    number = 0
    while lines := reader.row(delimiter):
        length = sum(line.length for line in lines)
        data = b"".join(line.data for line in lines)
        if not is_blank(data, reader.encoding):
            yield DelimitedRow((lines[0].offset, length, number), data, reader.encoding)
            number += 1


class _LineReader:
    """The lines still to be read, including those that a malformed row had consumed."""

    def __init__(self, storage: Storage, location: str, longest: int) -> None:
        self.encoding = "utf-8"
        self._longest = longest
        self._lines = self._read(storage, location)
        self._again: deque[_Line] = deque()

    def row(self, delimiter: str) -> list[_Line]:
        """The lines of the next row; empty at the end."""
        taken: list[_Line] = []
        try:
            next(csv.reader(self._texts(taken), delimiter=delimiter, strict=True), None)
        except (csv.Error, ValueError):
            self._again.extendleft(reversed(taken[1:]))
            del taken[1:]
        return taken

    def _texts(self, taken: list[_Line]) -> Iterator[str]:
        """The texts of the next lines, which are appended to `taken`.

        Raises:
            ValueError: together they would be a row that is too long.
        """
        length = 0
        while (line := self._again.popleft() if self._again else next(self._lines, None)) is not None:
            taken.append(line)
            length += line.length
            if length > self._longest:
                raise ValueError(f"the row has more than {self._longest} bytes")
            yield line.text

    def _read(self, storage: Storage, location: str) -> Iterator[_Line]:
        for (offset, length, _), data, encoding in read_lines(storage, location, self._longest, blank=True):
            self.encoding = encoding
            yield _Line(offset, length, data, decoded(data, encoding, "replace"))
