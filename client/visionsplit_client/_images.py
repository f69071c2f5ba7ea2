"""Images as callers have them, turned into the bytes of a file."""

import os
from collections.abc import Iterable, Iterator, Mapping, MappingView, Sequence, Set
from typing import cast

from PIL import Image
from visionsplit.errors import InvalidImageError
from visionsplit.images import file_of

from visionsplit_client._settings import DEFAULT_LIMITS, DEFAULT_TIMEOUTS, Limits, Timeouts
from visionsplit_client._sources import BinaryFile, check_size, is_file, of_dict, read_file, read_location, read_path

ImageSource = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | BinaryFile
    | Mapping[str, bytes | str | None]
    | Image.Image
)
"""A path; a file:, http:, https: or data: URL; the bytes of a file, or a file open for reading bytes; the datasets
library's {"bytes": ..., "path": ...}; or a Pillow image."""

# Other objects that can be iterated, such as an HTTP library's response, are one thing and not several images.
_SEVERAL_IMAGES = (Sequence, Set, Iterator, MappingView)
_ONE_IMAGE = (str, os.PathLike, bytes, bytearray, memoryview, Mapping, Image.Image)


def as_sources(images: ImageSource | Iterable[ImageSource] | None) -> list[ImageSource]:
    """One image, several or none, as a list.

    Raises:
        TypeError: an object that is neither an image nor several.
    """
    if images is None:
        return []
    # Before arrays: a text of NumPy's is an array to those who ask, too.
    if isinstance(images, _ONE_IMAGE) or is_file(images):
        return [cast("ImageSource", images)]
    if _is_array(images) or not isinstance(images, _SEVERAL_IMAGES):
        raise _no_image(images)
    return list(images)


def read_image(source: ImageSource, *, limits: Limits = DEFAULT_LIMITS, timeouts: Timeouts = DEFAULT_TIMEOUTS) -> bytes:
    """The bytes of an image's file. Decoding them is the encoder's work.

    A URL is fetched here and never by a service. An open file is read from its current position on.

    Args:
        limits: which sources are read, and the most bytes of one.
        timeouts: `fetch` is the time limit for a URL, in seconds.

    Raises:
        FileNotFoundError and other OSError: a file cannot be read.
        ImageFetchError: a URL cannot be fetched.
        InvalidImageError: more bytes than `limits` allow, or none; a data: URL that is damaged; a Pillow image that
            cannot be read.
        TypeError: an object that is not an image.
        ValueError: a URL of another kind, or a str that names a file where `limits` allow no files.
    """
    if isinstance(source, Mapping):
        source = of_dict(source)
    if isinstance(source, Image.Image):
        data = file_of(source)
    elif isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
    elif isinstance(source, str):
        data = read_location(source, limits, timeouts)
    elif isinstance(source, os.PathLike):
        data = read_path(source, limits)
    elif is_file(source) and not _is_array(source):
        data = read_file(source, limits)
    else:
        raise _no_image(source)
    if not data:
        raise InvalidImageError("the image has no bytes")
    if isinstance(source, Image.Image) and len(data) > limits.max_image_bytes:
        raise InvalidImageError(
            f"the Pillow image has {len(data)} bytes as PNG; at most {limits.max_image_bytes} are taken. Give its file "
            "instead, or make it smaller"
        )
    check_size("the image", len(data), limits)
    return data


def _is_array(source: object) -> bool:
    """Whether this is an array of NumPy, PyTorch or a similar library, whose layout and range only the caller knows."""
    return hasattr(source, "__array__") and not isinstance(source, Image.Image)


def _no_image(source: object) -> TypeError:
    kind = type(source).__name__
    if _is_array(source):
        return TypeError(
            f"{kind} is not an image; PIL.Image.fromarray makes one of [H, W, 3] of uint8, and list() a list of paths"
        )
    return TypeError(f"{kind} is not an image; give a path, a URL, bytes, a file open in mode 'rb' or a Pillow image")
