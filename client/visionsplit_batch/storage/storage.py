"""Files by location: a local path, or a URI of a store such as s3://, gs://, hdfs:// or whatever fsspec knows.

A location is text. The stores' own keys follow the authority as they are, without percent encoding; options of the
store may follow as a query (`s3://bucket/key?endpoint_override=host:port&scheme=http`, as pyarrow.fs has them).
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
_RENAMING_SCHEMES = frozenset({"hdfs", "viewfs"})  # a file grows in sight of others there, so it is renamed at its end
_STRICT = Strict()
_SPOOL_BYTES = 1 << 26  # of a file on its way to a store, in memory; beyond this in a temporary file


@dataclass(frozen=True)
class Uri:
    """A location that is no local path."""

    scheme: str
    authority: str
    path: str  # with its leading "/", or empty
    query: str  # with its leading "?", or empty

    @property
    def root(self) -> str:
        return f"{self.scheme}://{self.authority}/{self.query}"


class Storage:
    """Opens, lists and writes files. It holds connections only, and opens them anew where it is unpickled.

    All calls raise OSError (FileNotFoundError where nothing is), and ValueError for a URI of an unknown kind.
    """

    def __init__(self) -> None:
        self._stores: dict[str, tuple[fs.FileSystem, str]] = {}  # by the URI's root: the store, and where it begins

    def __getstate__(self) -> dict[str, Any]:
        return {"_stores": {}}

    def open(self, location: str) -> pa.NativeFile:
        """The file for reading, seekable. Each call opens it anew."""
        uri = parse(location)
        if uri is None:
            return pa.OSFile(os.fsencode(local_path(location)), "rb")
        store, path = self._resolve(uri)
        return store.open_input_file(path)

    def read(self, location: str, limit: int) -> bytes:
        """The whole file, or its first `limit` + 1 bytes if it has more, so that the caller sees that it does."""
        with self.open(location) as file:
            data: bytes = file.read(limit + 1)
        return data

    def size(self, location: str) -> int:
        """Bytes of the file."""
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
        """Whether a file or folder is there. Object stores have a folder as soon as they have something in it."""
        return self.is_file(location) or self.is_folder(location)

    def list(self, folder: str, max_depth: int | None = None, visitor: Visitor = _STRICT) -> Iterator[str]:
        """The names of all files below a folder, relative to it and with "/" between, as a stream.

        In each folder files and folders come by name, in the order of their UTF-8 bytes, and what is in a folder comes
        at its place: the same order each time. Local folders of any size need little memory; of a store's folder the
        names of its direct files and folders are held at once. Hidden files come too.

        Args:
            max_depth: how deep to look; 1 takes only what is in the folder itself.
            visitor: which folders to look into, and what to do about what cannot be listed.
        """
        uri = parse(folder)
        if uri is None:
            yield from list_local(Path(local_path(folder)), max_depth, visitor)
        else:
            store, path = self._resolve(uri)
            yield from list_store(store, path, max_depth, visitor)

    def delete(self, location: str) -> None:
        """Delete a file. It is no error if it is not there."""
        uri = parse(location)
        if uri is None:
            Path(local_path(location)).unlink(missing_ok=True)
        elif self.is_file(location):
            store, path = self._resolve(uri)
            store.delete_file(path)

    def make_folders(self, location: str) -> None:
        """Make a folder and those above it. In object stores, which have none, this does nothing."""
        uri = parse(location)
        if uri is None:
            Path(local_path(location)).mkdir(parents=True, exist_ok=True)
        elif uri.scheme not in _ARROW_SCHEMES or uri.scheme in _RENAMING_SCHEMES:
            store, path = self._resolve(uri)
            store.create_dir(path, recursive=True)

    @contextlib.contextmanager
    def write_atomically(self, location: str) -> Iterator[IO[bytes]]:
        """A file to write, which takes its name, in place of an older one, only when the block ends without an error.

        The file is seekable. Its folder must be there. A local file is on the disk when this returns; one for a store
        is kept back here until it is whole, and then sent. A crash may leave a local hidden file that ends in ".part".
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
                store.delete_file(path)  # renaming does not replace
            store.move(target, path)

    def _type(self, uri: Uri) -> fs.FileType:
        store, path = self._resolve(uri)
        return store.get_file_info(path or "/").type

    def _resolve(self, uri: Uri) -> tuple[fs.FileSystem, str]:
        """The store, and the path as it knows it."""
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
    """The location as other processes find it too: a local path is made absolute."""
    return str(Path(local_path(location)).absolute()) if parse(location) is None else location


def join(folder: str, name: str) -> str:
    """The location of a name relative to a folder."""
    uri = parse(folder)
    if uri is None:
        return str(Path(local_path(folder), name))
    return f"{uri.scheme}://{uri.authority}{uri.path.rstrip('/')}/{name}{uri.query}"


def parent(location: str) -> str:
    """The folder that a file is in."""
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
        raise ValueError(f"{uri.scheme}:// is no kind of store that can be opened here: {error}") from error
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
        os.fsync(folder)  # otherwise the new name may not outlive a power cut
    finally:
        os.close(folder)
