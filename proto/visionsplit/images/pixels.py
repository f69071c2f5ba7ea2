"""Converts pixels of any Pillow mode to 8-bit RGB, block by block, so that memory stays close to the result's size."""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from PIL import Image

from visionsplit.images.lab import lab_to_rgb
from visionsplit.images.scaling import Scale, of_bits, of_range

Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom

BMP_FORMATS = ("BMP", "DIB")  # a DIB is a BMP without its file header, as on the Windows clipboard

_WHITE = (255, 255, 255, 255)
_BLOCK = 1024  # pixels along a block's edges


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image, with transparent parts over white; `scaling.of_range` says how wide grey is scaled.

    Raises:
        InvalidImageError: a pixel is NaN or infinite.
    """
    if image.mode[0] in "IF":
        return wide_grey(image, of_bits(16) if _is_16_bit(image) else wide_scale(image))
    if image.mode == "LAB":
        return _lab(image)
    if _means_alpha(image):
        return _over_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def wide_scale(image: Image.Image, *, stretched: bool = False) -> Scale:
    """The scale of an image of mode I or F, chosen from its range of values."""
    return of_range((np.asarray(image.crop(box)) for box in boxes(image)), stretched=stretched)


def wide_grey(image: Image.Image, scale: Scale) -> Image.Image:
    """Grey of 16 or 32 bits as RGB."""
    transparent = image.info.get("transparency")  # of a PNG: the one value that is transparent
    rgb = Image.new("RGB", image.size)
    for box in boxes(image):
        values = np.asarray(image.crop(box))  # [height, width]
        block = scale.to_bytes(values)
        if isinstance(transparent, int):
            block[values == transparent] = 255
        rgb.paste(Image.fromarray(block).convert("RGB"), box)
    return rgb


def boxes(image: Image.Image) -> Iterator[Box]:
    """Blocks that cover the image."""
    for top in range(0, image.height, _BLOCK):
        for left in range(0, image.width, _BLOCK):
            yield left, top, min(left + _BLOCK, image.width), min(top + _BLOCK, image.height)


def _is_16_bit(image: Image.Image) -> bool:
    """Whether the image's samples have 16 bits. Pillow scales those of a PGM to 16 bits, in mode I."""
    return image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM")


def has_negative(image: Image.Image) -> bool:
    """Whether an image of mode I or F has a value below 0."""
    return any(np.asarray(image.crop(box)).min() < 0 for box in boxes(image))


def _means_alpha(image: Image.Image) -> bool:
    """Whether the image has transparency that is meant as such.

    Programs that write BMP files often leave the alpha channel at 0, since most programs that read them ignore it.
    """
    if not image.has_transparency_data:
        return False
    return image.format not in BMP_FORMATS or image.mode != "RGBA" or has_any_alpha(image)


def has_any_alpha(image: Image.Image) -> bool:
    """Whether the alpha of an RGBA image is not 0 everywhere."""
    return image.getchannel("A").getbbox() is not None


def _lab(image: Image.Image) -> Image.Image:
    rgb = Image.new("RGB", image.size)
    for box in boxes(image):
        values = np.asarray(image.crop(box))  # [height, width, 3], the last two signed
        converted = lab_to_rgb(values[:, :, 0] * (100 / 255), values[:, :, 1:].view(np.int8))
        rgb.paste(Image.fromarray(converted), box)
    return rgb


def _over_white(image: Image.Image) -> Image.Image:
    rgb = Image.new("RGB", image.size)
    for box in boxes(image):
        block = image.crop(box)
        above = (block.convert("LA") if block.mode == "La" else block).convert("RGBA")
        rgb.paste(Image.alpha_composite(Image.new("RGBA", above.size, _WHITE), above).convert("RGB"), box)
    return rgb
