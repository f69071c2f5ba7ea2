"""The common part of all sources: reading file by file, and turning a row's error into that row's failure."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from itertools import groupby
from typing import Any, ClassVar, Generic, TypeVar

from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.fields import json_values
from visionsplit_batch.rows.left_out import LeftOut, in_words
from visionsplit_batch.rows.rows import Content, Entry, Failure
from visionsplit_batch.sources.image_reader import ImageReader
from visionsplit_batch.sources.inputs import Found, Inputs, suffix
from visionsplit_batch.sources.unique import unique

File = TypeVar("File")  # opened once for all of a slice's entries in one file


class RowSource(ABC, Generic[File]):
    """A `Source` whose formats differ in four small methods."""

    format: ClassVar[str]
    suffixes: ClassVar[frozenset[str]]  # of the format's files in folders and globs
    known_columns: frozenset[str] | None = None  # see `Source.known_columns`

    def __init__(self, inputs: Inputs, image_reader: ImageReader) -> None:
        self.inputs = inputs
        self.image_reader = image_reader

    def settings(self) -> Mapping[str, Any]:
        root = {} if self.image_reader.root is None else {"image_root": self.image_reader.root}
        return {"format": self.format, "inputs": self.inputs.locations, **root, **self.options()}

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """See `Source.left_out`."""
        return self.inputs.tally.result

    def files(self) -> Iterator[Found]:
        """The input's files of this format."""
        return self.inputs.files(self.wanted)

    def wanted(self, found: Found) -> bool:
        """Whether a file in a folder or a glob is of this format."""
        return suffix(found.name) in self.suffixes

    def entries(self) -> Iterator[Entry]:
        """See `Source.entries`.

        Raises:
            InputError: also if there are no rows, and if an id appears twice.
        """
        empty = True
        for entry in unique(self.list_rows, self.where):
            empty = False
            yield entry
        if empty:
            left_out = f"; left out: {in_words(self.left_out)}" if self.left_out else ""
            given = ", ".join(self.inputs.locations)
            raise InputError(f"the input {given} has no rows of the format {self.format}{left_out}")

    def read(self, entries: Sequence[Entry]) -> Iterator[Content | Failure]:
        for path, grouped in groupby(entries, key=lambda entry: entry.path):
            group = list(grouped)
            with ExitStack() as stack:
                try:
                    file = stack.enter_context(self.open_file(path))
                except Exception as error:  # the exceptions of stores have no common class
                    yield from [Failure.of(error, "read")] * len(group)
                    continue
                for entry in group:
                    yield self._attempt(file, entry)

    def _attempt(self, file: File, entry: Entry) -> Content | Failure:
        try:
            content = self.read_row(file, entry)
            return replace(content, fields=json_values(content.fields))
        except Exception as error:  # as above; and a row's error must not keep the other rows from being read
            return Failure.of(error, "read")

    def options(self) -> Mapping[str, Any]:
        """Further settings that the rows depend on, as JSON values."""
        return {}

    @abstractmethod
    def list_rows(self) -> Iterator[Entry]:
        """Like `entries`, without its checks."""

    @abstractmethod
    def where(self, entry: Entry) -> str:
        """An entry's location, in words."""

    @abstractmethod
    def open_file(self, path: str) -> AbstractContextManager[File]:
        """Open the file from which entries of one path are read."""

    @abstractmethod
    def read_row(self, file: File, entry: Entry) -> Content:
        """Read one row's content. Any exception becomes the row's failure."""
