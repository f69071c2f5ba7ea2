"""Image bytes to an upright RGB image, with the size known before a pixel is decoded."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import ExifTags, Image, UnidentifiedImageError
from visionsplit.errors import InvalidImageError

from encoder_service.defaults import MAX_IMAGE_PIXELS
from encoder_service.pixels import to_rgb

_log = logging.getLogger(__name__)

# Pillow's names. Formats that run other programs or interpret vector drawings stay out.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

# What undoes each EXIF orientation; 1, and whatever the standard does not know, needs nothing.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageLimits:
    """What is decoded at all."""

    max_pixels: int = MAX_IMAGE_PIXELS
    formats: tuple[str, ...] = IMAGE_FORMATS


def read_size(data: bytes, limits: ImageLimits) -> tuple[int, int]:
    """Width and height as a file's header announces them, before any orientation. No pixel is decoded.

    Raises:
        InvalidImageError: no data, an unknown format, too many pixels, or a broken header.
    """
    with _refusing(data, limits):
        return _open(data, limits).size


def decode_image(data: bytes, limits: ImageLimits) -> Image.Image:
    """Decode a file's first frame, turn it upright by its EXIF orientation and lay it over white.

    Returns:
        An image of mode RGB; `pixels.to_rgb` says how other modes become one.

    Raises:
        InvalidImageError: no data, an unknown format, too many pixels, or a file that is cut off or broken.
    """
    with _refusing(data, limits):
        image = _open(data, limits)
        # Before the orientation is asked for: Pillow turns TIFFs by itself as it loads them, and a PNG's EXIF may
        # follow its pixels.
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        rgb = to_rgb(image)
        return rgb if turn is None else rgb.transpose(turn)


@contextmanager
def _refusing(data: bytes, limits: ImageLimits) -> Iterator[None]:
    """Turn whatever a decoder raises into InvalidImageError.

    At a stranger's bytes the bytes are at fault: Pillow's plugins raise a dozen kinds.
    """
    if not data:
        raise InvalidImageError("the image has no data")
    try:
        yield
    except InvalidImageError:
        raise
    except UnidentifiedImageError as error:
        formats = ", ".join(limits.formats)
        raise InvalidImageError(f"{len(data)} bytes are not an image in one of the formats {formats}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidImageError(f"the image has more than the {limits.max_pixels} pixels taken here") from error
    except Exception as error:
        raise InvalidImageError(f"the image cannot be decoded; its file is cut off or broken ({error})") from error


def _open(data: bytes, limits: ImageLimits) -> Image.Image:
    """Read the header only, and check the size it announces."""
    image = Image.open(io.BytesIO(data), formats=limits.formats)
    if image.width * image.height > limits.max_pixels:
        raise InvalidImageError(
            f"the image has {image.width} x {image.height} pixels, more than the {limits.max_pixels} taken here"
        )
    return image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none.

    Cameras and editors write EXIF that contradicts itself in tags nobody needs here; only this one is read, and one
    that cannot be read does not spoil a sound picture.
    """
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception as error:  # as many kinds as decoders raise
        _log.debug("an image's EXIF cannot be read: %s", error)
        return 1
    return value if isinstance(value, int) else 1
