"""Pictures as callers have them, turned into the bytes of a file."""

import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from visionsplit.errors import InvalidImageError
from visionsplit.images import file_of

from visionsplit_client._errors import ImageFetchError
from visionsplit_client._settings import Limits, Timeouts

ImageSource = str | Path | bytes | bytearray | memoryview | Image.Image
"""A path, a file:// or http(s):// URL, the bytes of a file, or a Pillow image."""

_READ_BYTES = 1 << 16


def as_sources(images: ImageSource | Sequence[ImageSource] | None) -> list[ImageSource]:
    """One picture, several or none, as a list."""
    if images is None:
        return []
    if isinstance(images, str | Path | bytes | bytearray | memoryview | Image.Image):
        return [images]
    return list(images)


def read_image(source: ImageSource, *, limits: Limits, timeouts: Timeouts) -> bytes:
    """The bytes of a picture's file. Decoding them is the encoder's work.

    A URL is fetched here and never by a service.

    Raises:
        FileNotFoundError and other OSError: a file cannot be read.
        ImageFetchError: a URL cannot be fetched.
        InvalidImageError: more bytes than `limits` allow, or none; a Pillow image that cannot be read.
        TypeError: an object that is no picture.
        ValueError: a URL of another kind.
    """
    if isinstance(source, Image.Image):
        data = file_of(source)
    elif isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
    elif isinstance(source, Path):
        data = _read_file(source, limits)
    elif isinstance(source, str):
        data = _read_location(source, limits, timeouts)
    else:
        raise TypeError(f"{type(source).__name__} is no picture; give a path, a URL, bytes or a Pillow image")
    if not data:
        raise InvalidImageError("the picture has no bytes")
    _check_size("the picture", len(data), limits)
    return data


def _read_location(location: str, limits: Limits, timeouts: Timeouts) -> bytes:
    scheme, separator, _ = location.partition("://")
    if not separator:
        return _read_file(Path(location), limits)
    if scheme.lower() in ("http", "https"):
        return _fetch(location, limits, timeouts.fetch)
    if scheme.lower() == "file":
        url = urllib.parse.urlsplit(location)
        if url.netloc not in ("", "localhost"):
            raise ValueError(f"{location} names another machine, {url.netloc}")
        return _read_file(Path(urllib.request.url2pathname(url.path)), limits)
    raise ValueError(f"{location}: pictures are read from paths and from file, http and https URLs")


def _read_file(path: Path, limits: Limits) -> bytes:
    with path.open("rb") as file:
        data = file.read(limits.max_image_bytes + 1)
    _check_size(str(path), len(data), limits)
    return data


def _fetch(url: str, limits: Limits, timeout: float | None) -> bytes:
    # Only these two handlers, so that a redirect cannot lead to another kind of URL.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
    ):
        opener.add_handler(handler())
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        response = opener.open(url, timeout=timeout)
        if response is None:  # a redirect to a scheme without a handler
            raise ImageFetchError(f"cannot fetch {url}: it leads to something other than http and https")
        with response:
            chunks: list[bytes] = []
            size = 0
            while chunk := response.read1(_READ_BYTES):
                size += len(chunk)
                _check_size(url, size, limits)
                chunks.append(chunk)
                if deadline is not None and time.monotonic() > deadline:
                    raise TimeoutError(f"not complete after {timeout:g} seconds")
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        status = f"HTTP {error.code} " if isinstance(error, urllib.error.HTTPError) else ""
        raise ImageFetchError(f"cannot fetch {url}: {status}{reason}") from error
    return b"".join(chunks)


def _check_size(what: str, size: int, limits: Limits) -> None:
    if size > limits.max_image_bytes:
        raise InvalidImageError(f"{what} has more than {limits.max_image_bytes} bytes")
