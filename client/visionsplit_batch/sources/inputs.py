"""Finds the files of an input: folders, globs, names with braces, and single files."""

import contextlib
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from fsspec.utils import glob_translate

from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.left_out import Tally
from visionsplit_batch.storage.run_files import ERRORS, RUN_SETTINGS, STATE
from visionsplit_batch.storage.storage import Storage, absolute, join, local_path, parse

_MAGIC = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "__macosx", "_success", "_metadata", "_common_metadata"})
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class Found:
    """A file of the input."""

    name: str  # relative to the input if that is one folder; otherwise as it was given
    location: str  # absolute


class Inputs:
    """The given inputs, resolved to absolute locations on construction.

    `tally` counts the files that the last listing left out.
    """

    def __init__(self, given: Sequence[str], storage: Storage, *, output: str | None = None) -> None:
        """
        Args:
            given: the inputs as the user wrote them.
            storage: opens and lists them.
            output: the absolute folder that the job writes to. It is never part of the input.

        Raises:
            InputError: no input is given, or the output is a folder of the input itself.
        """
        if not given:
            raise InputError("no input is given")
        self.storage = storage
        self.tally = Tally()
        self._output = output
        self._given = [one for text in given for one in self._expanded(text)]
        self.locations = [text if is_url(text) else absolute(text) for text in self._given]
        for text, location in zip(self._given, self.locations, strict=True):
            if not is_url(location) and output is not None and same_folder(storage, location, output):
                raise InputError(f"the output folder is the input {text} itself; give another folder, or one inside it")

    @property
    def single_file(self) -> bool:
        """Whether the input is a single file that was named itself."""
        return len(self.locations) == 1 and (is_url(self.locations[0]) or self.storage.is_file(self.locations[0]))

    @property
    def folder(self) -> str | None:
        """The folder, if the input is one folder."""
        alone = len(self.locations) == 1 and not is_url(self.locations[0])
        return self.locations[0] if alone and self.storage.is_folder(self.locations[0]) else None

    def files(self, wanted: Callable[[Found], bool] | None) -> Iterator[Found]:
        """All files, in the order given and sorted within folders, as a stream.

        Args:
            wanted: whether a file of a folder or a glob belongs to the input; None takes all. Hidden files, and those
                that batch jobs wrote, never do. Files that were named themselves always do.

        Raises:
            InputError: an input does not exist or cannot be listed.
        """
        self.tally = Tally()
        for given, location in zip(self._given, self.locations, strict=True):
            try:
                yield from self._files_of(given, location, wanted)
            except (OSError, ValueError) as error:
                raise InputError(f"the input {given} cannot be listed: {error}") from error

    def is_output(self, folder: str) -> bool:
        """Whether a folder is this job's output, or that of another job."""
        own = self._output is not None and same_folder(self.storage, folder, self._output)
        return own or self.storage.is_file(join(folder, RUN_SETTINGS))

    def _files_of(self, given: str, location: str, wanted: Callable[[Found], bool] | None) -> Iterator[Found]:
        if is_url(location):
            yield Found(given, location)
        elif self.storage.is_file(location):
            yield Found(_plain(given), location)
        elif self.storage.is_folder(location):
            for name in self._below(location, None):
                found = Found(name if len(self._given) == 1 else join(_plain(given), name), join(location, name))
                if wanted is None or wanted(found):
                    yield found
                else:
                    self.tally.add(found.name, "format")
        elif _MAGIC.search(_plain(location)):
            yield from self._matches(given, location, wanted)
        else:
            raise InputError(f"the input {given} does not exist")

    def _matches(self, given: str, location: str, wanted: Callable[[Found], bool] | None) -> Iterator[Found]:
        folder, pattern = _split_at_magic(location)
        given_folder, _ = _split_at_magic(_plain(given))
        expression = re.compile(glob_translate(pattern))
        depth = None if "**" in pattern else pattern.count("/") + 1
        matched = False
        for name in self._below(folder, depth) if self.storage.is_folder(folder) else ():
            if not expression.match(name):
                continue
            matched = True
            found = Found(join(given_folder, name) if given_folder else name, join(folder, name))
            if wanted is None or wanted(found):
                yield found
            else:
                self.tally.add(found.name, "format")
        if not matched:
            raise InputError(f"no file matches {given}")

    def _below(self, folder: str, depth: int | None) -> Iterator[str]:
        own = self.is_output(folder)  # a run's answers or tokens may be the input of another run
        for name in self.storage.list(folder, depth, _InputVisitor(self, folder, own)):
            if own and name == ERRORS:
                self.tally.add(name, "output")
            elif is_hidden(name):
                self.tally.add(name, "hidden")
            else:
                yield name

    def _expanded(self, text: str) -> list[str]:
        there = not is_url(text) and parse(text) is None and self.storage.exists(absolute(text))
        return [text] if there else expand_braces(text)


class _InputVisitor:
    """The visitor of one folder of the input."""

    def __init__(self, inputs: Inputs, folder: str, is_run: bool) -> None:
        self._inputs = inputs
        self._folder = folder
        self._is_run = is_run

    def enters(self, name: str) -> bool:
        if self._is_run and name == STATE:
            return False  # the state of that run, which is not the user's data
        if is_hidden(name):
            self._inputs.tally.add(f"{name}/", "hidden")
        elif self._is_output(name):
            self._inputs.tally.add(f"{name}/", "output")
        else:
            return True
        return False

    def _is_output(self, name: str) -> bool:
        try:
            return self._inputs.is_output(join(self._folder, name))
        except PermissionError:
            return False  # listing the folder will fail and be counted, or reading its files will

    def passed_over(self, name: str, reason: Literal["link", "folder", "special"], error: OSError | None) -> None:
        self._inputs.tally.add(name, reason)


@contextlib.contextmanager
def reading(found: Found) -> Iterator[None]:
    """Convert an error of reading a file during the listing to an `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{found.location} cannot be read: {error}") from error


def is_hidden(name: str) -> bool:
    """Whether users do not normally see a file: its name begins with a dot, or a system or Hadoop created it."""
    last = name.rpartition("/")[2]
    return last.startswith(".") or last.lower() in _SYSTEM_FILES


def same_folder(storage: Storage, one: str, other: str) -> bool:
    """Whether both locations are the same folder, even if written differently."""
    if parse(one) is not None or parse(other) is not None:
        return one.rstrip("/") == other.rstrip("/")
    here, there = Path(local_path(one)), Path(local_path(other))
    return here.is_dir() and there.is_dir() and here.samefile(there)


def suffix(name: str) -> str:
    """The suffix with its dot, in lower case; two suffixes if the last one is that of a compression."""
    stem, last = posixpath.splitext(name.lower())
    return posixpath.splitext(stem)[1] + last if last in (".gz", ".bz2", ".xz", ".zst") else last


def is_url(location: str) -> bool:
    uri = parse(location)
    return uri is not None and uri.scheme in ("http", "https")


def expand_braces(text: str) -> list[str]:
    """Expand `a{1,2}` and `a{08..11}` as shells do: all choices, the last one varying fastest; leading zeros stay."""
    pieces = _BRACES.split(text)  # text, the inside of braces, text, ...
    choices = [[piece] if index % 2 == 0 else _choices(piece) for index, piece in enumerate(pieces)]
    return ["".join(choice) for choice in product(*choices)]


def _choices(inside: str) -> list[str]:
    if match := _RANGE.fullmatch(inside):
        first, last = match.groups()
        width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
        return [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    return inside.split(",") if "," in inside else [f"{{{inside}}}"]


def _plain(given: str) -> str:
    """The name for ids: the shortest spelling of a path, and a URI without its store's options."""
    uri = parse(given)
    if uri is not None:
        return f"{uri.scheme}://{uri.authority}{uri.path}"
    return given if given.startswith("file://") else posixpath.normpath(given)


def _split_at_magic(location: str) -> tuple[str, str]:
    """The folder before the first wildcard, and the pattern below it."""
    uri = parse(location)
    query = "" if uri is None else uri.query
    text = location.removesuffix(query) if query else location
    match = _MAGIC.search(text)
    cut = text.rfind("/", 0, match.start()) if match else -1
    if cut < 0:
        return "", text
    return (text[:cut] or "/") + query, text[cut + 1 :]
