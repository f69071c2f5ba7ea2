"""Images as files, and lists of them."""

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from visionsplit_batch.errors import InputError
from visionsplit_batch.rows import Content, Entry
from visionsplit_batch.sources.base import RowSource
from visionsplit_batch.sources.inputs import Found
from visionsplit_batch.sources.pictures import resolve
from visionsplit_batch.storage import parent

IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
)


class FilesSource(RowSource[None]):
    """Folders, globs and names of images. The id is the path, relative to the folder if the input is one folder."""

    format = "files"
    suffixes = IMAGE_SUFFIXES

    def list_rows(self) -> Iterator[Entry]:
        for found in self.inputs.files(self.suffixes):
            yield Entry(readable(found.name), found.location)

    def where(self, entry: Entry) -> str:
        return readable(entry.path)

    def open_file(self, path: str) -> AbstractContextManager[None]:
        return nullcontext()

    def read_row(self, file: None, entry: Entry) -> Content:
        return Content(images=(self.pictures.at(entry.path),))


class ListSource(FilesSource):
    """Text files with a path or URL on each line, relative to the file's folder. The line is the id.

    Lines that begin with # and empty lines are left out. The place is the line's number, from 1.
    """

    format = "list"
    suffixes = frozenset({".txt", ".lst", ".list"})

    def list_rows(self) -> Iterator[Entry]:
        for found in self.inputs.files(self.suffixes):
            try:
                yield from self._lines(found)
            except OSError as error:
                raise InputError(f"{found.location} cannot be read: {error}") from error

    def _lines(self, found: Found) -> Iterator[Entry]:
        folder = parent(found.location)
        with io.BufferedReader(self._opened(found)) as file:
            for number, line in enumerate(file, 1):
                encoded = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                text = encoded.strip().decode("utf-8", "surrogateescape")
                if text and not text.startswith("#"):
                    yield Entry(readable(text), resolve(text, folder), (number,))

    def _opened(self, found: Found) -> Any:  # noqa: ANN401 - pyarrow's files are io.RawIOBase in all but name
        return self.inputs.storage.open(found.location)

    def where(self, entry: Entry) -> str:
        return f"line {entry.place[0]}, {readable(entry.path)}"


def readable(path: str) -> str:
    """The path as text that can be written: names need not be UTF-8."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
