"""The files that an input means: folders, globs, names with braces, and single files."""

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from fsspec.utils import glob_translate

from visionsplit_batch.errors import InputError
from visionsplit_batch.storage import Storage, absolute, join, parse

_MAGIC = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class Found:
    """A file of the input."""

    name: str  # relative to the input, where that is one folder; otherwise as it was given
    location: str  # absolute


class Inputs:
    """What was given, fixed to absolute locations when this is made."""

    def __init__(self, given: Sequence[str], storage: Storage) -> None:
        """Raises InputError if nothing is given."""
        if not given:
            raise InputError("no input is given")
        self.storage = storage
        self._given = [one for text in given for one in expand_braces(text)]
        self.locations = [text if is_url(text) else absolute(text) for text in self._given]

    @property
    def single_file(self) -> bool:
        """Whether the input is one file that was named itself."""
        return len(self.locations) == 1 and (is_url(self.locations[0]) or self.storage.is_file(self.locations[0]))

    @property
    def folder(self) -> str | None:
        """The folder, if the input is one."""
        alone = len(self.locations) == 1 and not is_url(self.locations[0])
        return self.locations[0] if alone and self.storage.is_folder(self.locations[0]) else None

    def files(self, suffixes: frozenset[str] | None) -> Iterator[Found]:
        """All files, in the order given and sorted within folders, as a stream.

        Args:
            suffixes: which files of folders and globs are meant, in lower case; None takes all. Hidden ones never are.

        Raises:
            InputError: an input is not there, or cannot be listed.
        """
        for given, location in zip(self._given, self.locations, strict=True):
            try:
                yield from self._files_of(given, location, suffixes)
            except (OSError, ValueError) as error:
                raise InputError(f"the input {given} cannot be listed: {error}") from error

    def _files_of(self, given: str, location: str, suffixes: frozenset[str] | None) -> Iterator[Found]:
        if is_url(location):
            yield Found(given, location)
        elif self.storage.is_file(location):
            yield Found(_plain(given), location)
        elif self.storage.is_folder(location):
            for name in self._names(location, None, suffixes):
                yield Found(name if len(self._given) == 1 else join(_plain(given), name), join(location, name))
        elif _MAGIC.search(_plain(location)):
            yield from self._matches(given, location, suffixes)
        else:
            raise InputError(f"the input {given} is not there")

    def _matches(self, given: str, location: str, suffixes: frozenset[str] | None) -> Iterator[Found]:
        folder, pattern = _split_at_magic(location)
        given_folder, _ = _split_at_magic(_plain(given))
        expression = re.compile(glob_translate(pattern))
        depth = None if "**" in pattern else pattern.count("/") + 1
        found = False
        for name in self._names(folder, depth, suffixes) if self.storage.is_folder(folder) else ():
            if expression.match(name):
                found = True
                yield Found(join(given_folder, name) if given_folder else name, join(folder, name))
        if not found:
            raise InputError(f"no file matches {given}")

    def _names(self, folder: str, depth: int | None, suffixes: frozenset[str] | None) -> Iterator[str]:
        for name in self.storage.list(folder, depth):
            if suffixes is not None and suffix(name) not in suffixes:
                continue
            if not name.startswith(".") and "/." not in name:
                yield name


def suffix(name: str) -> str:
    """What follows the last dot, with it, in lower case; two of them where the last is that of a compression."""
    stem, last = posixpath.splitext(name.lower())
    return posixpath.splitext(stem)[1] + last if last in (".gz", ".bz2", ".xz", ".zst") else last


def is_url(location: str) -> bool:
    uri = parse(location)
    return uri is not None and uri.scheme in ("http", "https")


def expand_braces(text: str) -> list[str]:
    """`a{1,2}` and `a{08..11}` as shells have them: every choice, the last one fastest; zeros in front stay."""
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
    """The name for ids: of several spellings of one path the shortest, and a URI without its store's options."""
    uri = parse(given)
    if uri is not None:
        return f"{uri.scheme}://{uri.authority}{uri.path}"
    return given if given.startswith("file://") else posixpath.normpath(given)


def _split_at_magic(location: str) -> tuple[str, str]:
    """The folder before the first special sign, and the pattern below it."""
    uri = parse(location)
    query = "" if uri is None else uri.query
    text = location.removesuffix(query) if query else location
    match = _MAGIC.search(text)
    cut = text.rfind("/", 0, match.start()) if match else -1
    if cut < 0:
        return "", text
    return (text[:cut] or "/") + query, text[cut + 1 :]
