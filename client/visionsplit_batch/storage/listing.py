"""Lists the files of a folder in a stable order, without holding all of them in memory."""

import contextlib
import errno
import itertools
import os
import sqlite3
from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol

from pyarrow import fs

_FILE, _FOLDER, _SPECIAL = range(3)
_NAMES_IN_MEMORY = 20_000  # of one folder, for sorting; the names of larger folders are sorted on disk


class Visitor(Protocol):
    """Decides about the contents of a folder during a listing. Names are relative to that folder."""

    def enters(self, name: str) -> bool:
        """Whether to list the folder of this name."""

    def passed_over(self, name: str, reason: Literal["link", "folder", "special"], error: OSError | None) -> None:
        """Called for what is not listed: a link to a folder above it, an unreadable folder, or a special file."""


class Strict:
    """A visitor that enters every folder and raises an error for what cannot be listed."""

    def enters(self, name: str) -> bool:
        return True

    def passed_over(self, name: str, reason: Literal["link", "folder", "special"], error: OSError | None) -> None:
        if error is not None:
            raise error


def list_local(folder: Path, max_depth: int | None, visitor: Visitor) -> Iterator[str]:
    """The files below a local folder: see `Storage.list`. Links are followed.

    Raises:
        OSError: the folder itself cannot be read.
    """
    yield from _list_local(folder, "", (), max_depth, visitor)


def list_store(store: fs.FileSystem, folder: str, max_depth: int | None, visitor: Visitor) -> Iterator[str]:
    """The files below a store's folder: see `Storage.list`."""
    yield from _list_store(store, folder, "", max_depth, visitor)


def _list_local(
    folder: Path, prefix: str, above: tuple[tuple[int, int], ...], depth: int | None, visitor: Visitor
) -> Iterator[str]:
    """`above` are the folders on the path to this one, by device and inode, so that links in a circle end."""
    try:
        status = folder.stat()
        if (here := (status.st_dev, status.st_ino)) in above:
            error = OSError(errno.ELOOP, "a link leads back to a folder above it", str(folder))
            visitor.passed_over(prefix.rstrip("/"), "link", error)
            return
        sorted_names = _sorted(_scan(folder))
        first = next(sorted_names, None)  # reads the folder
    except OSError as error:
        if not prefix:
            raise
        visitor.passed_over(prefix.rstrip("/"), "folder", error)
        return
    with contextlib.closing(sorted_names) as names:
        for encoded, kind in () if first is None else itertools.chain([first], names):
            name = os.fsdecode(encoded)
            if kind == _FILE:
                yield prefix + name
            elif kind == _SPECIAL:
                visitor.passed_over(prefix + name, "special", None)
            elif (depth is None or depth > 1) and visitor.enters(prefix + name):
                deeper = None if depth is None else depth - 1
                yield from _list_local(folder / name, f"{prefix}{name}/", (*above, here), deeper, visitor)


def _scan(folder: Path) -> Iterator[tuple[bytes, int]]:
    """The name and the kind of each entry. A dangling link counts as a file, so that reading it reports the error."""
    with os.scandir(folder) as entries:
        for entry in entries:
            yield os.fsencode(entry.name), _kind(entry)


def _kind(entry: "os.DirEntry[str]") -> int:
    try:
        if entry.is_dir():
            return _FOLDER
        return _FILE if entry.is_file() or entry.is_symlink() else _SPECIAL
    except OSError:  # for example a link to itself
        return _FILE


def _sorted(names: Iterable[tuple[bytes, int]]) -> Generator[tuple[bytes, int], None, None]:
    names = iter(names)
    first = list(islice(names, _NAMES_IN_MEMORY))
    if len(first) < _NAMES_IN_MEMORY:
        yield from sorted(first)
        return
    # "" is a temporary database of this connection, which moves from memory to a temporary file as it grows.
    with contextlib.closing(sqlite3.connect("", check_same_thread=False)) as database:
        database.execute("CREATE TABLE names (name BLOB, kind INTEGER)")
        database.executemany("INSERT INTO names VALUES (?, ?)", first)
        first.clear()
        database.executemany("INSERT INTO names VALUES (?, ?)", names)
        for name, kind in database.execute("SELECT name, kind FROM names ORDER BY name"):
            yield name, int(kind)


def _list_store(store: fs.FileSystem, folder: str, prefix: str, depth: int | None, visitor: Visitor) -> Iterator[str]:
    infos = store.get_file_info(fs.FileSelector(folder or "/", recursive=False))
    for info in sorted(infos, key=lambda info: str(info.base_name).encode()):
        if info.type is fs.FileType.File:
            yield prefix + info.base_name
        elif info.type is fs.FileType.Directory and (depth is None or depth > 1):
            deeper = None if depth is None else depth - 1
            if visitor.enters(prefix + info.base_name):
                yield from _list_store(store, info.path, f"{prefix}{info.base_name}/", deeper, visitor)
