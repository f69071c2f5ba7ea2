"""What callers give as an image: where its bytes come from, and what errors call it."""

import base64
import binascii
import inspect
import io
import os
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from visionsplit.errors import InvalidImageError
from visionsplit.images import HEAD_BYTES, begins_as_image
from visionsplit.network.locations import LONGEST_NAME, describe, is_data_url
from visionsplit.network.web import TooLargeError, fetch
from visionsplit.network.web_connections import WebError

from visionsplit_client._errors import ImageFetchError
from visionsplit_client._settings import Limits, Timeouts

_READ_BYTES = 1 << 20
_DICT_KEYS = frozenset({"bytes", "path"})
# Documents that servers send instead of an image: pages to log in, errors, consents.
_DOCUMENTS = ("text/", "application/json", "application/problem", "application/xhtml")


class BinaryFile(Protocol):
    """An object opened for reading bytes, such as `open(path, "rb")`, `io.BytesIO` or a member of an archive."""

    def read(self, size: int, /) -> bytes: ...


def is_file(source: object) -> bool:
    """Whether a source is read from, rather than named."""
    return callable(getattr(source, "read", None))


def read_location(location: str, limits: Limits, timeouts: Timeouts) -> bytes:
    """The bytes behind a path or URL; see `read_image` for the errors."""
    if not location.strip():
        raise ValueError("the image's path is empty")
    if is_data_url(location):
        return _data_url(location.strip(), limits)
    scheme, separator, _ = location.strip().partition("://")
    if separator and scheme.lower() in ("http", "https"):
        return _fetch(location.strip(), limits, timeouts.fetch)
    if not limits.allow_files:
        raise ValueError(f"{describe(location)}: files are not allowed here; give an http, https or data URL")
    if not separator:
        return read_path(location, limits)
    if scheme.lower() == "file":
        url = urllib.parse.urlsplit(location)
        if url.netloc not in ("", "localhost"):
            raise ValueError(f"{describe(location)} names another machine, {url.netloc}")
        return read_path(urllib.request.url2pathname(url.path), limits)
    raise ValueError(f"{describe(location)}: images are read from paths and from file, http, https and data URLs")


def read_path(path: str | os.PathLike[Any], limits: Limits) -> bytes:
    """A file's bytes.

    Raises:
        OSError: it cannot be read. Its `filename` is short enough to print.
        InvalidImageError: it has more bytes than `limits` allow.
    """
    name = describe(os.fsdecode(path))
    try:
        with Path(os.fsdecode(path)).open("rb") as file:
            data = file.read(limits.max_image_bytes + 1)
    except OSError as error:
        if len(os.fsdecode(path)) <= LONGEST_NAME:
            raise
        reason = f"{error.strerror}; base64 text needs data:image/png;base64, in front"
        raise type(error)(error.errno, reason, name) from None
    except ValueError as error:  # a null byte
        raise ValueError(f"{name} cannot be a path: {error}") from None
    check_size(name, len(data), limits)
    return data


def read_file(file: BinaryFile, limits: Limits) -> bytes:
    """What is left of an open file, from its current position on.

    Raises:
        TypeError: it gives text, or needs an event loop.
        InvalidImageError: it has more bytes than `limits` allow, or none are left.
    """
    if isinstance(file, io.TextIOBase):
        raise TypeError(f"{type(file).__name__} gives text; open the file with mode 'rb'")
    data = bytearray()
    while True:
        some: object = file.read(_READ_BYTES)
        if inspect.iscoroutine(some):
            some.close()
        if not isinstance(some, bytes | bytearray | memoryview):
            raise TypeError(f"reading {type(file).__name__} gives {type(some).__name__}; open the file with mode 'rb'")
        if not some:
            break
        data += some
        check_size("the file", len(data), limits)
    if not data:
        raise InvalidImageError("the open file has no bytes from its current position on")
    return bytes(data)


def of_dict(source: Mapping[str, Any]) -> bytes | str:
    """The bytes or the path of {"bytes": ..., "path": ...}, the form of the datasets library; bytes come first.

    Raises:
        TypeError: other keys or values.
        ValueError: neither is there.
    """
    if not source.keys() <= _DICT_KEYS:
        raise TypeError(f"a dict as an image has the keys 'bytes' and 'path', not {', '.join(map(repr, source))[:100]}")
    data, path = source.get("bytes"), source.get("path")
    if not isinstance(data, bytes | bytearray | memoryview | None):
        raise TypeError(f"'bytes' of an image's dict is {type(data).__name__}, not bytes")
    if not isinstance(path, str | os.PathLike | None):
        raise TypeError(f"'path' of an image's dict is {type(path).__name__}, not str")
    if data is not None and len(data):
        return bytes(data)
    if path is not None:
        return os.fsdecode(path)
    raise ValueError("an image's dict has neither bytes nor a path")


def check_size(what: str, size: int, limits: Limits) -> None:
    """Raises InvalidImageError if there are more bytes than `limits` allow."""
    if size > limits.max_image_bytes:
        raise InvalidImageError(f"{what} has more than {limits.max_image_bytes} bytes")


def _fetch(url: str, limits: Limits, timeout: float | None) -> bytes:
    try:
        page = fetch(
            url,
            max_bytes=limits.max_image_bytes,
            timeout=timeout,
            private_addresses=limits.allow_private_addresses,
        )
    except TooLargeError as error:
        raise InvalidImageError(f"{describe(url)} has {error}") from error
    except WebError as error:
        raise ImageFetchError(f"cannot fetch {describe(url)}: {error}") from error
    if not page.data:
        raise ImageFetchError(f"cannot fetch {describe(url)}: the server sent no bytes")
    if page.content_type.startswith(_DOCUMENTS) and not begins_as_image(page.data[:HEAD_BYTES]):
        raise ImageFetchError(f"cannot fetch {describe(url)}: the server sent {page.content_type[:40]}, not an image")
    return page.data


def _data_url(url: str, limits: Limits) -> bytes:
    """The bytes of a data: URL (RFC 2397): percent-encoded, or base64 with either alphabet, white space left out."""
    header, comma, text = url.partition(",")
    if not comma:
        raise InvalidImageError(f"{describe(url)}: a data: URL needs a comma before its data")
    data = unquote_to_bytes(text)
    if header.rpartition(";")[2].strip().lower() == "base64":
        data = b"".join(data.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
        try:
            data = base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
        except binascii.Error as error:
            raise InvalidImageError(f"{describe(url)}: its base64 is damaged: {error}") from None
    check_size(describe(url), len(data), limits)
    return data
