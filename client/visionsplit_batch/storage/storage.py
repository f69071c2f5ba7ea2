"""Opens, lists and writes files by location: a local path, or a URI such as s3://, gs://, hdfs:// or others of fsspec.

A location is text. The store's key follows the authority without percent encoding; options of the store may follow as a
query (`s3://bucket/key?endpoint_override=host:port&scheme=http`, as in pyarrow.fs).
"""

import contextlib
import os
import re
import secrets
import shutil
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from fsspec.core import url_to_fs
from pyarrow import fs

from visionsplit_batch.storage.listing import Strict, Visitor, list_local, list_store

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?]*)(.*?)(\?\w+=[^/]*)?", re.DOTALL)
_ARROW_SCHEMES = frozenset({"s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss"})
_RENAMING_SCHEMES = frozenset({"hdfs", "viewfs"})  # unfinished files are visible there, so they are renamed at the end
_STRICT = Strict()
_SPOOL_BYTES = 1 << 26  # of a file before it is sent to a store, in memory; more goes to a temporary file


@dataclass(frozen=True)
class Uri:
    """A location that is not a local path."""

    scheme: str
    authority: str
    path: str  # with its leading "/", or empty
    query: str  # with its leading "?", or empty

    @property
    def root(self) -> str:
        return f"{self.scheme}://{self.authority}/{self.query}"


class Storage:
    """Opens, lists and writes files. It holds only connections, and opens them again after unpickling.

    All methods raise OSError (FileNotFoundError if the file does not exist), and ValueError for an unknown kind of URI.
    """

    def __init__(self) -> None:
        self._stores: dict[str, tuple[fs.FileSystem, str]] = {}  # by the URI's root: the store and its base path

    def __getstate__(self) -> dict[str, Any]:
        return {"_stores": {}}

    def open(self, location: str) -> pa.NativeFile:
        """Open a file for reading, seekable, separately at each call."""
        uri = parse(location)
        if uri is None:
            return pa.OSFile(os.fsencode(local_path(location)), "rb")
        store, path = self._resolve(uri)
        return store.open_input_file(path)

    def read(self, location: str, limit: int) -> bytes:
        """Read the whole file, or its first `limit` + 1 bytes if it has more, so that the caller sees that it does."""
        with self.open(location) as file:
            data: bytes = file.read(limit + 1)
        return data

    def size(self, location: str) -> int:
        """The size of a file in bytes."""
        with self.open(location) as file:
            size: int = file.size()
        return size

    def is_file(self, location: str) -> bool:
        uri = parse(location)
        if uri is None:
            return Path(local_path(location)).is_file()
        return self._type(uri) is fs.FileType.File

    def is_folder(self, location: str) -> bool:
        uri = parse(location)
        if uri is None:
            return Path(local_path(location)).is_dir()
        return self._type(uri) is fs.FileType.Directory

    def exists(self, location: str) -> bool:
        """Whether a file or folder exists. In object stores a folder exists if it contains something."""
        return self.is_file(location) or self.is_folder(location)

    def list(self, folder: str, max_depth: int | None = None, visitor: Visitor = _STRICT) -> Iterator[str]:
        """The names of all files below a folder, relative to it and with "/" as separator, as a stream.

        The order is stable: within each folder, files and folders are sorted by the UTF-8 bytes of their names, and a
        folder's contents come at its position. Local folders of any size need little memory; for a folder in a store
        the names of its direct files and folders are held at once. Hidden files are included.

        Args:
            folder: the folder.
            max_depth: how deep to list; 1 lists only the folder itself.
            visitor: decides which folders to enter, and what to do about what cannot be listed.
        """
        uri = parse(folder)
        if uri is None:
            yield from list_local(Path(local_path(folder)), max_depth, visitor)
        else:
            store, path = self._resolve(uri)
            yield from list_store(store, path, max_depth, visitor)

    def delete(self, location: str) -> None:
        """Delete a file, if it exists."""
        uri = parse(location)
        if uri is None:
            Path(local_path(location)).unlink(missing_ok=True)
        elif self.is_file(location):
            store, path = self._resolve(uri)
            store.delete_file(path)

    def make_folders(self, location: str) -> None:
        """Create a folder and its parents. In object stores, which have no folders, this does nothing."""
        uri = parse(location)
        if uri is None:
            Path(local_path(location)).mkdir(parents=True, exist_ok=True)
        elif uri.scheme not in _ARROW_SCHEMES or uri.scheme in _RENAMING_SCHEMES:
            store, path = self._resolve(uri)
            store.create_dir(path, recursive=True)

    @contextlib.contextmanager
    def write_atomically(self, location: str) -> Iterator[IO[bytes]]:
        """A file to write. It takes its name, replacing an older file, only when the block ends without an exception.

        The file is seekable. Its folder must exist. A local file is on the disk when this returns; a file for a store
        is kept locally until it is complete, and then sent. A crash may leave a hidden local file that ends in ".part".
        """
        uri = parse(location)
        if uri is None:
            with _write_local(Path(local_path(location))) as file:
                yield file
            return
        with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as spool:
            yield spool
            spool.seek(0)
            self._send(spool, uri)

    def _send(self, data: IO[bytes], uri: Uri) -> None:
        store, path = self._resolve(uri)
        renaming = uri.scheme in _RENAMING_SCHEMES
        target = f"{path}.{secrets.token_hex(4)}.part" if renaming else path
        with store.open_output_stream(target) as stream:
            shutil.copyfileobj(data, stream)
        if renaming:
            if store.get_file_info(path).type is fs.FileType.File:
                store.delete_file(path)  # since renaming does not replace a file
            store.move(target, path)

    def _type(self, uri: Uri) -> fs.FileType:
        store, path = self._resolve(uri)
        return store.get_file_info(path or "/").type

    def _resolve(self, uri: Uri) -> tuple[fs.FileSystem, str]:
        """The store, and the path within it."""
        if uri.root not in self._stores:
            self._stores[uri.root] = _connect(uri)
        store, base = self._stores[uri.root]
        return store, f"{base.rstrip('/')}{uri.path}"


def parse(location: str) -> Uri | None:
    """The parts of a URI; None for a local path, which may also be written as a file:// URI."""
    match = _URI.fullmatch(location)
    if match is None:
        return None
    scheme, authority, path, query = match.groups(default="")
    return None if scheme.lower() == "file" else Uri(scheme.lower(), authority, path, query)


def local_path(location: str) -> str:
    """The path of a local location.

    Raises:
        ValueError: a file:// URI that names another machine.
    """
    if not location.lower().startswith("file://"):
        return location
    url = urllib.parse.urlsplit(location)
    if url.netloc not in ("", "localhost"):
        raise ValueError(f"{location} names another machine, {url.netloc}")
    return urllib.request.url2pathname(url.path)


def absolute(location: str) -> str:
    """The location in a form that is valid in other processes: a local path is made absolute."""
    return str(Path(local_path(location)).absolute()) if parse(location) is None else location


def join(folder: str, name: str) -> str:
    """The location of a name relative to a folder."""
    uri = parse(folder)
    if uri is None:
        return str(Path(local_path(folder), name))
    return f"{uri.scheme}://{uri.authority}{uri.path.rstrip('/')}/{name}{uri.query}"


def parent(location: str) -> str:
    """The folder of a file."""
    uri = parse(location)
    if uri is None:
        return str(Path(local_path(location)).parent)
    return f"{uri.scheme}://{uri.authority}{uri.path.rstrip('/').rpartition('/')[0] or '/'}{uri.query}"


def _connect(uri: Uri) -> tuple[fs.FileSystem, str]:
    if uri.scheme in _ARROW_SCHEMES:
        store, base = fs.FileSystem.from_uri(uri.root)
        return store, base
    try:
        known, base = url_to_fs(uri.root)
    except (ValueError, ImportError) as error:
        raise ValueError(f"{uri.scheme}:// is not a kind of store that can be opened here: {error}") from error
    return fs.PyFileSystem(fs.FSSpecHandler(known)), base


@contextlib.contextmanager
def _write_local(path: Path) -> Iterator[IO[bytes]]:
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # otherwise a power failure may lose the new name
    finally:
        os.close(folder)
