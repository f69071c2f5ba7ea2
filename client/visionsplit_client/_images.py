"""Images as callers have them, turned into the bytes of a file."""

import io
import os
from collections.abc import Iterable, Mapping
from typing import cast

from PIL import ExifTags, Image
from visionsplit.errors import InvalidImageError

from visionsplit_client._settings import Limits, Timeouts
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

_ONE_IMAGE = (str, os.PathLike, bytes, bytearray, memoryview, Mapping, Image.Image)
# What PNG stores without loss; other modes are converted to RGB first.
_PNG_MODES = frozenset({"1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"})

# EXIF 2.3, tag 0x0112: where the stored picture's first row and column belong, and what turns it upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def as_sources(images: ImageSource | Iterable[ImageSource] | None) -> list[ImageSource]:
    """One image, several or none, as a list.

    Raises:
        TypeError: an object that is neither an image nor several.
    """
    if images is None:
        return []
    if _is_array(images):
        raise _no_image(images)
    if isinstance(images, _ONE_IMAGE) or is_file(images):
        return [cast("ImageSource", images)]
    if not isinstance(images, Iterable):
        raise _no_image(images)
    return list(images)


def read_image(source: ImageSource, *, limits: Limits, timeouts: Timeouts) -> bytes:
    """The bytes of an image's file. Decoding them is the encoder's work.

    A URL is fetched here and never by a service. An open file is read from its current position on.

    Raises:
        FileNotFoundError and other OSError: a file cannot be read.
        ImageFetchError: a URL cannot be fetched.
        InvalidImageError: more bytes than `limits` allow, or none; a data: URL that is damaged.
        TypeError: an object that is not an image.
        ValueError: a URL of another kind.
    """
    if isinstance(source, Mapping):
        source = of_dict(source)
    if isinstance(source, Image.Image):
        data = _png(source)
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
    check_size("the image", len(data), limits)
    return data


def _is_array(source: object) -> bool:
    """Whether this is an array of NumPy, PyTorch or their kin, whose layout and range only the caller knows."""
    return hasattr(source, "__array__") and not isinstance(source, Image.Image)


def _no_image(source: object) -> TypeError:
    kind = type(source).__name__
    if _is_array(source):
        return TypeError(f"{kind} is not an image; PIL.Image.fromarray makes one of it, from [H, W, 3] of uint8")
    return TypeError(f"{kind} is not an image; give a path, a URL, bytes, a file open in mode 'rb' or a Pillow image")


def upright(image: Image.Image) -> Image.Image:
    """The picture with its EXIF orientation applied.

    Only that tag is read: `ImageOps.exif_transpose` writes all others anew, which fails on odd ones.
    """
    image.load()  # only then is the tag final: PNG may have it at its end, and Pillow turns TIFF files itself
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """The tag's value; 1, which turns nothing, without one or if the EXIF cannot be read, as for the encoder."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # broken EXIF raises many kinds, and does not spoil a sound picture
        return 1
    return value if isinstance(value, int) else 1


def _png(image: Image.Image) -> bytes:
    """The picture without loss, upright: its EXIF orientation is applied, as it would be for its file."""
    turned = upright(image)
    if turned.mode not in _PNG_MODES:
        if turned.mode == "F":
            raise ValueError("a Pillow image of mode F has no fixed range; convert it to mode L or RGB first")
        turned = turned.convert("RGBA" if turned.has_transparency_data else "RGB")
    buffer = io.BytesIO()
    turned.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
