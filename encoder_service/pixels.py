"""Pixels of any mode that Pillow reads as RGB. Works block by block, so that memory stays near the result's."""

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from visionsplit.errors import InvalidImageError

_WHITE = (255, 255, 255, 255)
_BLOCK = 1024  # pixels along a block's edges
_MIDDLE_GREY = 128

_Box: TypeAlias = tuple[int, int, int, int]
_Wide: TypeAlias = NDArray[Any]  # uint16, int32 or float32
_Grey: TypeAlias = NDArray[np.uint8]


def to_rgb(image: Image.Image) -> Image.Image:
    """A loaded image as RGB, transparent parts over white.

    Grey of more than 8 bits has no single meaning of white, so what is in the image decides:

        integers, all within 0..65535      16-bit samples
        floats, all within 0..1            0 is black, 1 is white
        floats, all within 0..255          8-bit samples
        anything else                      the darkest is black, the brightest white; all equal, middle grey

    Raises:
        InvalidImageError: a pixel is NaN or infinite.
    """
    if image.mode[0] in "IF":
        return _wide_grey(image).convert("RGB")
    if image.has_transparency_data:
        return _over_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    rgb = Image.new("RGB", image.size)
    for box in _boxes(image):
        above = image.crop(box).convert("RGBA")
        rgb.paste(Image.alpha_composite(Image.new("RGBA", above.size, _WHITE), above).convert("RGB"), box)
    return rgb


def _wide_grey(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits as mode L."""
    to_8_bit = _scaling(image)
    transparent = image.info.get("transparency")  # of a PNG: the one value that is not there
    grey = Image.new("L", image.size)
    for box in _boxes(image):
        values = np.asarray(image.crop(box))  # [height, width]
        block = to_8_bit(values)
        if isinstance(transparent, int):
            block[values == transparent] = 255
        grey.paste(Image.fromarray(block), box)
    return grey


def _scaling(image: Image.Image) -> Callable[[_Wide], _Grey]:
    """How this image's wide values become 8 bits."""
    if image.mode.startswith("I;16"):
        return _from_16_bit
    low, high = _extremes(image)
    if image.mode[0] == "I" and low >= 0 and high <= 65535:
        return _from_16_bit
    if image.mode[0] == "F" and low >= 0 and high <= 1:
        return lambda values: _stretched(values, 0.0, 1.0)
    if image.mode[0] == "F" and low >= 0 and high <= 255:
        return lambda values: _stretched(values, 0.0, 255.0)
    if low == high:
        return lambda values: np.full(values.shape, _MIDDLE_GREY, np.uint8)
    return lambda values: _stretched(values, low, high)


def _extremes(image: Image.Image) -> tuple[float, float]:
    low, high = math.inf, -math.inf
    for box in _boxes(image):
        values = np.asarray(image.crop(box))
        if not np.isfinite(values).all():
            raise InvalidImageError("the image has pixels that are NaN or infinite")
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    return low, high


def _from_16_bit(values: _Wide) -> _Grey:
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _stretched(values: _Wide, low: float, high: float) -> _Grey:
    """`low` to 0 and `high` to 255. In double precision: the difference of two floats may not fit a float."""
    return np.round((values.astype(np.float64) - low) * (255.0 / (high - low))).astype(np.uint8)


def _boxes(image: Image.Image) -> Iterator[_Box]:
    """Blocks that cover the image, as (left, top, right, bottom)."""
    for top in range(0, image.height, _BLOCK):
        for left in range(0, image.width, _BLOCK):
            yield left, top, min(left + _BLOCK, image.width), min(top + _BLOCK, image.height)
