"""Image bytes to an upright RGB image, with the size known before a pixel is decoded."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from visionsplit.errors import InvalidImageError

# Pillow's names. Formats that run other programs or interpret vector drawings stay out.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_WHITE = (255, 255, 255, 255)


@dataclass(frozen=True)
class ImageLimits:
    """What is decoded at all."""

    max_pixels: int = 64_000_000
    formats: tuple[str, ...] = IMAGE_FORMATS


def decode_image(data: bytes, limits: ImageLimits) -> Image.Image:
    """Decode a file's first frame, turn it upright by its EXIF orientation and lay it over white.

    Returns:
        An image of mode RGB. Grey of more than 8 bits is scaled down, not clipped.

    Raises:
        InvalidImageError: no data, an unknown format, too many pixels, or a file that is cut off or broken.
    """
    if not data:
        raise InvalidImageError("the image has no data")
    try:
        image = _open(data, limits)
        # Whatever a decoder raises at a stranger's bytes, the bytes are at fault: Pillow's plugins raise a dozen kinds.
        return _to_rgb(ImageOps.exif_transpose(image))
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


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":
        return _wide_grey_to_8_bit(image).convert("RGB")
    if image.has_transparency_data:
        above = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", above.size, _WHITE), above).convert("RGB")
    return image.convert("RGB")


def _wide_grey_to_8_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits as mode L.

    Integers from 0 to 65535 are 16-bit samples, whatever the mode they were read into. Other values have no agreed
    white, so they are stretched from the image's own darkest to its own brightest.
    """
    values = np.asarray(image).astype(np.float64)  # [height, width]
    if not np.isfinite(values).all():
        raise InvalidImageError("the image has pixels that are NaN or infinite")
    low, high = float(values.min()), float(values.max())
    if image.mode[0] == "I" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    scaled = (values - low) * (255.0 / max(high - low, np.finfo(np.float64).tiny))
    return Image.fromarray(np.round(scaled).astype(np.uint8))
