"""Converts loaded Pillow images to RGB.

Pillow's mode alone does not determine what a file's samples mean. The rest is taken from what Pillow has kept of the
file: the tags of a TIFF, the transparent colour of a PNG. Where that does not suffice, the file is read again, if it
still exists and is unchanged; otherwise the image is refused.
"""

import io
import os
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from visionsplit.errors import InvalidImageError
from visionsplit.images import gif, tiff
from visionsplit.images.orientation import read_orientation, upright
from visionsplit.images.pixels import BMP_FORMATS, has_any_alpha, has_negative, to_rgb, wide_grey, wide_scale
from visionsplit.images.reading import decode_image
from visionsplit.images.scaling import Scale, of_bits
from visionsplit.images.size_limits import UNLIMITED


def loaded_to_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image, rotated by its EXIF orientation and composited over white.

    Raises:
        InvalidImageError: Pillow has lost the meaning of the file's samples.
    """
    if isinstance(image, ImageFile):
        lost = _lost(image)
        again = _read_again(image) if lost or _may_be_lost(image) else None
        if again is not None:
            return again
        if lost:
            raise InvalidImageError(
                f"Pillow has lost the meaning of {lost}; give its path or its bytes, or the image before it is loaded"
            )
    if isinstance(image, TiffImageFile):
        return _tiff_to_rgb(image)  # Pillow has already rotated it
    if isinstance(image, GifImageFile) and not image.tell():
        return gif.first_frame(image)
    pixels = _with_right_key(image) if image.format == "PNG" else image
    return upright(to_rgb(pixels), read_orientation(image.info.get("exif")))


def _lost(image: ImageFile) -> str | None:
    """What Pillow's pixels of an image have lost, in words; None if nothing."""
    if isinstance(image, TiffImageFile):
        lost = tiff.lost_by_pillow(layout := _layout(image))
        wraps = layout.sample_type == "uint" and layout.bits == 32 and image.mode == "I" and has_negative(image)
        lost = "integers of more than 31 bits" if wraps else lost
        return lost and f"a TIFF with {lost}"
    if image.format in BMP_FORMATS and image.mode == "RGBA" and image.getbbox(alpha_only=False) is None:
        # Image.thumbnail multiplies the colours by the alpha channel, which BMP files often leave at 0.
        return 'a BMP whose alpha is 0 everywhere and whose colours resizing has set to 0 (call convert("RGB") first)'
    key = image.info.get("transparency")
    if isinstance(image, PngImageFile) and image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        return "a PNG with a transparent colour of 16 bits"
    return None


def _may_be_lost(image: ImageFile) -> bool:
    """Whether Pillow may have misread the samples: a BMP's indices of 4 or 8 bits into two colours as single bits, or
    JPEG 2000 samples of another width than 8 bits."""
    return (image.format, image.mode) == ("BMP", "1") or image.format == "JPEG2000"


def _read_again(image: ImageFile) -> Image.Image | None:
    """Decode the image's file, if it still exists and has the image's pixels, which a caller may have changed."""
    path = Path(os.fsdecode(image.filename))
    if not image.filename or not path.is_file():
        return None
    data = path.read_bytes()
    with Image.open(io.BytesIO(data), formats=[image.format or ""]) as again:
        again.seek(image.tell())
        again.load()
        same = (again.mode, again.size, again.tobytes()) == (image.mode, image.size, image.tobytes())
    return decode_image(data, UNLIMITED, page=image.tell()) if same else None


def _layout(image: TiffImageFile) -> tiff.Layout:
    tags = {tag: _as_values(value) for tag, value in image.tag_v2.items()}
    return tiff.layout_of(tags, "<" if image.tag_v2.prefix == b"II" else ">")


def _as_values(value: Any) -> tuple[Any, ...]:  # noqa: ANN401 - a tag may have any type
    return value if isinstance(value, tuple) else (value,)


def _tiff_to_rgb(image: TiffImageFile) -> Image.Image:
    layout = _layout(image)
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


def _with_right_key(image: Image.Image) -> Image.Image:
    """A loaded PNG with its transparent colour scaled like its pixels, which Pillow does not do."""
    key = image.info.get("transparency")
    if image.mode != "L" or not isinstance(key, int) or not 0 < key < 16:
        return image
    # Pillow has spread grey of 2 or 4 bits over 0..255. Grey of 8 bits with so small a key has other levels than these.
    levels = {level for _, level in image.getcolors() or ()}
    for bits in (2, 4):
        step = 255 // (2**bits - 1)
        if key < 2**bits and all(isinstance(level, int) and level % step == 0 for level in levels):
            right = image.copy()
            right.info["transparency"] = key * step
            return right
    return image
