"""What is in a folder, in one order each time, without all of it in memory."""

import contextlib
import errno
import os
import sqlite3
from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from pathlib import Path

from pyarrow import fs

_NAMES_IN_MEMORY = 20_000  # of one folder, while they are sorted; of a larger one they are sorted on the disk


def list_local(folder: Path, max_depth: int | None) -> Iterator[str]:
    """The files below a local folder: see `Storage.list`. Links are followed; pipes, sockets and devices left out.

    Raises:
        OSError: also where a link leads back to a folder above it.
    """
    yield from _list_local(folder, "", (), max_depth)


def list_store(store: fs.FileSystem, folder: str, max_depth: int | None) -> Iterator[str]:
    """The files below a store's folder: see `Storage.list`."""
    yield from _list_store(store, folder, "", max_depth)


def _list_local(folder: Path, prefix: str, above: tuple[tuple[int, int], ...], depth: int | None) -> Iterator[str]:
    """`above` are the folders on the way here, by device and inode."""
    status = folder.stat()
    if (here := (status.st_dev, status.st_ino)) in above:
        raise OSError(errno.ELOOP, "a link leads back to a folder above it", str(folder))
    with contextlib.closing(_sorted(_scan(folder))) as names:
        for encoded, is_folder in names:
            name = os.fsdecode(encoded)
            if not is_folder:
                yield prefix + name
            elif depth is None or depth > 1:
                deeper = None if depth is None else depth - 1
                yield from _list_local(folder / name, f"{prefix}{name}/", (*above, here), deeper)


def _scan(folder: Path) -> Iterator[tuple[bytes, bool]]:
    """The name of each, and whether it is a folder. A link that leads nowhere counts as a file, for reading to fail."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield os.fsencode(entry.name), True
            elif entry.is_file() or entry.is_symlink():
                yield os.fsencode(entry.name), False


def _sorted(names: Iterable[tuple[bytes, bool]]) -> Generator[tuple[bytes, bool], None, None]:
    names = iter(names)
    first = list(islice(names, _NAMES_IN_MEMORY))
    if len(first) < _NAMES_IN_MEMORY:
        yield from sorted(first)
        return
    # "" is a database of this connection alone, which moves from memory into a temporary file as it grows.
    with contextlib.closing(sqlite3.connect("", check_same_thread=False)) as database:
        database.execute("CREATE TABLE names (name BLOB, is_folder INTEGER)")
        database.executemany("INSERT INTO names VALUES (?, ?)", first)
        first.clear()
        database.executemany("INSERT INTO names VALUES (?, ?)", names)
        for name, is_folder in database.execute("SELECT name, is_folder FROM names ORDER BY name"):
            yield name, bool(is_folder)


def _list_store(store: fs.FileSystem, folder: str, prefix: str, depth: int | None) -> Iterator[str]:
    infos = store.get_file_info(fs.FileSelector(folder or "/", recursive=False))
    for info in sorted(infos, key=lambda info: str(info.base_name).encode()):
        if info.type is fs.FileType.File:
            yield prefix + info.base_name
        elif info.type is fs.FileType.Directory and (depth is None or depth > 1):
            deeper = None if depth is None else depth - 1
            yield from _list_store(store, info.path, f"{prefix}{info.base_name}/", deeper)
