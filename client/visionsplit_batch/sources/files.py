"""Inputs of single image files, and of lists of them."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

from visionsplit.images import HEAD_BYTES, SUFFIXES, begins_as_image

from visionsplit_batch.rows.rows import Content, Entry
from visionsplit_batch.sources.base import RowSource
from visionsplit_batch.sources.inputs import Found, is_url, reading
from visionsplit_batch.sources.text import read_lines
from visionsplit_batch.storage.storage import parent, parse

_LONGEST_LINE = 1 << 20  # bytes


class FilesSource(RowSource[None]):
    """Folders, globs and names of images. The id is the path, relative to the folder if the input is one folder.

    On a local disk a file without an image's suffix is an image if it begins as one, since download programs write
    names such as `photo.jpg?size=2`. In a store the name decides, since looking at each file costs a request.
    """

    format = "files"
    suffixes = SUFFIXES
    known_columns = frozenset()

    def wanted(self, found: Found) -> bool:
        return super().wanted(found) or (parse(found.location) is None and self._begins_as_image(found))

    def list_rows(self) -> Iterator[Entry]:
        for found in self.files():
            yield Entry(readable(found.name), found.location)

    def where(self, entry: Entry) -> str:
        return readable(entry.path)

    def open_file(self, path: str) -> AbstractContextManager[None]:
        return nullcontext()

    def read_row(self, file: None, entry: Entry) -> Content:
        return Content(images=(self.image_reader.from_text(entry.path, parent(entry.path)),))

    def _begins_as_image(self, found: Found) -> bool:
        try:
            return begins_as_image(self.inputs.storage.read(found.location, HEAD_BYTES - 1))
        except OSError:  # unreadable, so it is left out like any other file that is not an image
            return False


class ListSource(FilesSource):
    """Text files with a path or URL on each line, relative to the file's folder. The line is the id.

    A line is used unchanged, including blanks or a # at its start or end, since file names may contain them; only
    around a URL blanks are removed. Blank lines are skipped. The place is the line's number, from 1. A line that is too
    long fails; its place also has its length in bytes, and its id is "line 17".
    """

    format = "list"
    suffixes = frozenset({".txt", ".lst", ".list"})

    def wanted(self, found: Found) -> bool:
        return RowSource.wanted(self, found)

    def list_rows(self) -> Iterator[Entry]:
        for found in self.files():
            folder = parent(found.location)
            with reading(found):
                lines = read_lines(self.inputs.storage, found.location, _LONGEST_LINE)
                for (_, length, number), data, encoding in lines:
                    if length > _LONGEST_LINE:
                        yield Entry(f"line {number}", found.location, (number, length))
                        continue
                    line = _line(data, encoding, first=number == 1)
                    bare = line.strip()
                    location = bare if is_url(bare) else self.image_reader.resolve(line, folder)
                    yield Entry(readable(line), location, (number,))

    def read_row(self, file: None, entry: Entry) -> Content:
        if len(entry.place) > 1:
            raise ValueError(f"the line has {entry.place[1]} bytes, more than the {_LONGEST_LINE} that are read")
        return super().read_row(file, entry)

    def where(self, entry: Entry) -> str:
        return f"line {entry.place[0]}, {readable(entry.path)}"


def _line(data: bytes, encoding: str, *, first: bool) -> str:
    text = data.decode(encoding, "surrogateescape" if encoding == "utf-8" else "replace")
    return (text.removeprefix("\ufeff") if first else text).removesuffix("\n").removesuffix("\r")


def readable(path: str) -> str:
    r"""The path as text that can be written: names need not be UTF-8, and invalid bytes are written as `\xff`."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
