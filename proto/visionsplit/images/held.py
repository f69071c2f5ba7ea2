"""Pillow images as callers hold them, read as the files they come from are read.

Before Pillow has loaded an image, its file is still there and decides. Afterwards there are the pixels in one of
Pillow's modes, and of a TIFF its tags; where Pillow has lost what a file's samples mean, the image is refused.
"""

import io
import os
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from visionsplit.errors import InvalidImageError
from visionsplit.images import tiff
from visionsplit.images.formats import recognise
from visionsplit.images.orientation import read_orientation, upright
from visionsplit.images.pixels import has_any_alpha, to_rgb, wide_grey, wide_scale
from visionsplit.images.reading import UNLIMITED, decode_image, right_cmyk
from visionsplit.images.scaling import Scale, of_bits

_JPEG_FORMATS = ("JPEG", "MPO")


def file_of(image: Image.Image) -> bytes:
    """A file of the image: the one it was opened from if it has not been loaded yet, else a PNG of `held_to_rgb`.

    Raises:
        InvalidImageError: see `held_to_rgb`.
    """
    file = _unloaded(image)
    if file is not None and not _frame(image):
        return file
    buffer = io.BytesIO()
    held_to_rgb(image).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def held_to_rgb(image: Image.Image) -> Image.Image:
    """The image as 8-bit RGB, turned upright by its EXIF orientation and laid over white.

    Raises:
        InvalidImageError: it cannot be loaded, or Pillow has lost what the samples of its file mean.
    """
    file = _unloaded(image)
    if file is not None:
        return decode_image(file, UNLIMITED, page=_frame(image))
    try:
        image.load()
    except Exception as error:  # as many kinds as decoders raise
        raise InvalidImageError(f"the Pillow image cannot be loaded: {error}") from error
    if isinstance(image, TiffImageFile):
        return _loaded_tiff(image)
    if isinstance(image, PngImageFile) and _has_wide_key(image):
        return _read_again(image, "a PNG with a transparent colour of 16 bits")
    if image.format in _JPEG_FORMATS:
        right = right_cmyk(image, adobe="adobe" in image.info)
    else:
        right = _with_right_key(image) if image.format == "PNG" else image
    return upright(to_rgb(right), read_orientation(image.info.get("exif")))


def _unloaded(image: Image.Image) -> bytes | None:
    """The file of an image that Pillow has opened and not loaded; None without one, or if it is not read as it is."""
    if not isinstance(image, ImageFile) or not image.tile or image.fp is None or image.fp.closed:
        return None
    if _frame(image) and not isinstance(image, TiffImageFile):
        return None
    place = image.fp.tell()
    try:
        image.fp.seek(0)
        data = image.fp.read()
    finally:
        image.fp.seek(place)
    try:
        recognise(data)
    except InvalidImageError:  # a format that Pillow reads and a path may not have
        return None
    return None if _is_drafted(image, data) else data


def _is_drafted(image: ImageFile, data: bytes) -> bool:
    """Whether Image.draft has made Pillow decode a JPEG at a fraction of its size, or without its colours."""
    if image.format not in _JPEG_FORMATS:
        return False
    whole = JpegImageFile(io.BytesIO(data))
    return (whole.mode, whole.size) != (image.mode, image.size)


def _frame(image: Image.Image) -> int:
    return image.tell()


def _loaded_tiff(image: TiffImageFile) -> Image.Image:
    """Pillow has turned it upright already."""
    order = "<" if image.tag_v2.prefix == b"II" else ">"
    layout = tiff.layout_of({tag: _as_values(value) for tag, value in image.tag_v2.items()}, order)
    if lost := tiff.lost_by_pillow(layout) or _lost_by_wrapping(image, layout):
        return _read_again(image, f"a TIFF with {lost}")
    if image.mode[0] in "IF":
        grey = wide_grey(image, _tiff_scale(image, layout))
        return ImageChops.invert(grey) if layout.photometric == tiff.Photometric.WHITE_IS_ZERO else grey
    undeclared = not layout.extra and layout.samples == layout.colours + 1
    if undeclared and image.mode == "RGBA" and not has_any_alpha(image):
        return image.convert("RGB")
    return to_rgb(image)


def _tiff_scale(image: TiffImageFile, layout: tiff.Layout) -> Scale:
    if layout.sample_type == "uint" and layout.bits <= 16:
        return of_bits(layout.bits)
    return wide_scale(image, stretched=layout.sample_type == "int" and layout.bits <= 16)


def _lost_by_wrapping(image: TiffImageFile, layout: tiff.Layout) -> str | None:
    """Pillow's 32-bit integers are signed."""
    wrapped = layout.sample_type == "uint" and layout.bits == 32 and image.mode == "I" and wide_scale(image).black < 0
    return "integers of more than 31 bits" if wrapped else None


def _read_again(image: ImageFile, lost: str) -> Image.Image:
    """The image by its file, if that is still there and still what the image shows: a caller may have drawn on it."""
    if image.filename and Path(os.fsdecode(image.filename)).is_file():
        data = Path(os.fsdecode(image.filename)).read_bytes()
        with Image.open(io.BytesIO(data), formats=[image.format or ""]) as again:
            again.seek(_frame(image))
            again.load()
            if (again.mode, again.size, again.tobytes()) == (image.mode, image.size, image.tobytes()):
                return decode_image(data, UNLIMITED, page=_frame(image))
    raise InvalidImageError(
        f"Pillow has lost the meaning of {lost}; give its path or its bytes, or the image before it is loaded"
    )


def _as_values(value: Any) -> tuple[Any, ...]:  # noqa: ANN401 - of any type that a tag may have
    return value if isinstance(value, tuple) else (value,)


def _has_wide_key(image: PngImageFile) -> bool:
    """Whether the transparent colour is one of 16 bits, while Pillow's pixels have kept 8."""
    key = image.info.get("transparency")
    return image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255


def _with_right_key(image: Image.Image) -> Image.Image:
    """A loaded PNG with its transparent colour on the scale of its pixels, onto which Pillow does not bring it."""
    key = image.info.get("transparency")
    if image.mode != "L" or not isinstance(key, int) or not 0 < key < 16:
        return image
    # Grey of 2 or 4 bits has been spread over 0..255, so that of 8 bits cannot have so small a key among these levels.
    levels = {level for _, level in image.getcolors() or ()}
    for bits in (2, 4):
        step = 255 // (2**bits - 1)
        if key < 2**bits and all(isinstance(level, int) and level % step == 0 for level in levels):
            right = image.copy()
            right.info["transparency"] = key * step
            return right
    return image
