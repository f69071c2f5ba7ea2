"""Reads text files line by line, with each line's location in bytes, so that it can be read again by itself."""

import codecs
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from visionsplit_batch.storage.storage import Storage

HEAD_BYTES = 1 << 16  # of a file, enough to recognise its encoding and its form
Place = tuple[int, int, int]  # offset and length in bytes, and the number

# The longer ones come first: UTF-32's mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class TextFile:
    """A text file that is open for reading."""

    file: pa.NativeFile
    encoding: str

    def text(self, offset: int, length: int) -> str:
        """Read the text at an offset.

        Raises:
            ValueError: the bytes are not text in the file's encoding.
        """
        self.file.seek(offset)
        return decoded(self.file.read(length), self.encoding)

    def close(self) -> None:
        self.file.close()


def open_text(storage: Storage, location: str) -> TextFile:
    """Open a file and detect its encoding."""
    file = storage.open(location)
    try:
        return TextFile(file, encoding_of(file.read(HEAD_BYTES)))
    except BaseException:
        file.close()
        raise


def encoding_of(head: bytes) -> str:
    """The encoding of a text with this beginning: from its mark, or from zeros beside the first letter; else UTF-8.

    All formats that are read here begin with an ASCII character, or with the mark.
    """
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    zeros = [byte == 0 for byte in head[:4]]
    patterns = {
        (False, True, True, True): "utf-32-le",
        (True, True, True, False): "utf-32-be",
        (False, True, False, True): "utf-16-le",
        (True, False, True, False): "utf-16-be",
    }
    return patterns.get(tuple(zeros), "utf-8")  # type: ignore[arg-type]  # of a shorter text there are fewer


def decoded(data: bytes, encoding: str, errors: str = "strict") -> str:
    """Decode text, without a byte order mark at its beginning.

    Raises:
        ValueError: the bytes are not text in this encoding.
    """
    return data.decode(encoding, errors).removeprefix(_BYTE_ORDER_MARK)


def read_lines(
    storage: Storage, location: str, longest: int, *, blank: bool = False
) -> Iterator[tuple[Place, bytes, str]]:
    """Each line that is not blank: its place, with its number counted from 1, its bytes, and the file's encoding.

    Args:
        storage: opens the file.
        location: the file's location.
        longest: of a longer line only this many bytes are returned; its place has its whole length.
        blank: whether to return blank lines too.
    """
    offset = number = 0
    opened: Any = storage.open(location)  # has the interface of io.RawIOBase without inheriting from it
    with io.BufferedReader(opened, 1 << 18) as file:
        encoding = encoding_of(file.peek(4))
        newline = "\n".encode(encoding)
        while True:
            line, length = _line(file, newline, longest)
            if not length:
                return
            number += 1
            if blank or not is_blank(line, encoding):
                yield (offset, length, number), line, encoding
            offset += length


def is_blank(line: bytes, encoding: str) -> bool:
    """Whether a line contains only white space."""
    if encoding == "utf-8":
        return not line.removeprefix(codecs.BOM_UTF8).strip()
    return not decoded(line, encoding, "replace").strip(" \t\r\n\v\f")


def _line(file: io.BufferedReader, newline: bytes, longest: int) -> tuple[bytes, int]:
    """The bytes of the next line, truncated to `longest`, and its real length."""
    width = len(newline)
    kept = bytearray()
    length, end = 0, b""
    while piece := file.readline(longest):
        if piece.endswith(b"\n"):  # possibly only the first byte of the newline, or a byte of another character
            piece += file.read(-(length + len(piece)) % width)
        kept += piece[: longest - len(kept)]
        length += len(piece)
        end = (end + piece)[-width:]
        if length % width == 0 and end == newline:
            break
    return bytes(kept), length
