"""A picture's file as the encoder sees it."""

import io

import numpy as np
from PIL import Image

from visionsplit_client._images import upright

_MIDDLE_GREY = 128


def as_encoded(data: bytes) -> Image.Image:
    """The first frame in RGB: upright, wide grey scaled to 8 bits, transparency over white."""
    with Image.open(io.BytesIO(data)) as opened:
        image = upright(opened)
    if image.mode[0] in "IF":
        image = _wide_grey_to_8_bit(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    overlay = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", overlay.size, "white"), overlay).convert("RGB")


def _wide_grey_to_8_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits as mode L.

    What is in the picture decides on its white, by the encoder's rules: integers within 0..65535 are 16-bit samples;
    floats may fill 0..1 or 0..255; anything else is stretched from its darkest to its brightest.
    """
    values = np.asarray(image).astype(np.float64)  # [H, W]
    low, high = float(values.min()), float(values.max())
    whites = (65535.0,) if image.mode[0] == "I" else (1.0, 255.0)
    white = next((white for white in whites if low >= 0 and high <= white), None)
    if white is not None:
        low, high = 0.0, white
    elif low == high:
        return Image.new("L", image.size, _MIDDLE_GREY)
    grey = np.round((values - low) * (255 / (high - low))).astype(np.uint8)
    transparent = image.info.get("transparency")  # of a PNG: the one value that is not there
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey)
