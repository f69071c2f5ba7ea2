"""The EXIF orientation of an image. No other tag is read."""

import logging

from PIL import ExifTags, Image

_log = logging.getLogger(__name__)

# EXIF 2.3, tag 0x0112: what turns the stored image upright. 1, and whatever the standard does not know, needs nothing.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The image turned by its orientation."""
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def read_orientation(exif: object) -> int:
    """The orientation in a block of EXIF; 1 where there is none.

    Cameras and editors write EXIF that contradicts itself in other tags; a block that cannot be read does not spoil a
    sound image either.
    """
    if not isinstance(exif, bytes) or not exif:
        return 1
    try:
        tags = Image.Exif()
        tags.load(exif)
        value = tags.get(ExifTags.Base.Orientation)
    except Exception as error:  # broken EXIF raises as many kinds of errors as there are ways to break it
        _log.debug("an image's EXIF cannot be read: %s", error)
        return 1
    return value if isinstance(value, int) else 1
