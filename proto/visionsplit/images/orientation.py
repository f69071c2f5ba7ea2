"""Reads the EXIF orientation of an image, and no other tag."""

import logging

from PIL import Image

from visionsplit.errors import InvalidImageError
from visionsplit.images.tiff.directory import Tag, read_directory

_START = b"Exif\0\0"
_TIFF_STARTS = (b"II*\0", b"MM\0*")
_log = logging.getLogger(__name__)

# EXIF 2.3, tag 0x0112: the operation that turns the stored image upright. 1 and undefined values need none.
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
    """The image rotated or mirrored according to its orientation."""
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def read_orientation(exif: object) -> int:
    """The orientation in an EXIF block; 1 if there is none.

    Cameras and editors write EXIF whose other tags contradict each other, so an unreadable block does not make a valid
    image invalid.
    """
    if not isinstance(exif, bytes):
        return 1
    block = exif.removeprefix(_START)
    if not block.startswith(_TIFF_STARTS):
        return 1
    try:
        tags, _ = read_directory(block, 0)
    except InvalidImageError as error:
        _log.debug("an image's EXIF cannot be read: %s", error)
        return 1
    value = (tags.get(Tag.ORIENTATION) or (1,))[0]
    return value if isinstance(value, int) else 1
