"""PBM, PGM, PPM and PFM: prepares a file for Pillow's decoder."""

import re

import numpy as np
from PIL.ImageFile import ImageFile

from visionsplit.errors import InvalidImageError

_MOST_HEADER_BYTES = 1 << 16
_MOST_COMMENTS = 1_000
_COMMENT = re.compile(rb"#[^\r\n]*[\r\n]?")
_PLAIN = (b"P1", b"P2", b"P3")
_BITMAPS = (b"P1", b"P4")


def check_header(data: bytes) -> None:
    """Limit the parts of a file that the decoder reads in Python.

    Raises:
        InvalidImageError: the header, or the comments among samples written as text, would take the decoder long.
    """
    head = _COMMENT.sub(b"", data[:_MOST_HEADER_BYTES])
    words = 3 if data.startswith(_BITMAPS) else 4  # the format, width and height; the largest value or the scale
    found = head.split(None, words)
    complete = len(found) > words or (len(found) == words and head[-1:].isspace())
    if len(data) > _MOST_HEADER_BYTES and not complete:
        raise InvalidImageError(f"a header of more than {_MOST_HEADER_BYTES} bytes is not supported")
    if is_plain(data) and data.count(b"#") > _MOST_COMMENTS:
        raise InvalidImageError(f"more than {_MOST_COMMENTS} comments among the samples are not supported")


def is_plain(data: bytes) -> bool:
    """Whether the samples are written as text."""
    return data.startswith(_PLAIN)


def prepared(data: bytes, image: ImageFile) -> bytes:
    """Rescale samples whose largest value is neither 255 nor 65535, which Pillow would do one by one in Python.

    Args:
        data: the file.
        image: the same file, opened by Pillow.
    """
    tile = image.tile[0]
    if tile.codec_name != "ppm":
        return data
    assert isinstance(tile.args, tuple), "the mode of the samples and their largest value"
    largest = int(tile.args[1])
    white, format_ = (65535, b"P5") if image.mode == "I" else (255, b"P6" if image.mode == "RGB" else b"P5")
    stored = np.dtype(np.uint8 if largest < 256 else ">u2")
    count = min(image.width * image.height * len(image.getbands()), (len(data) - tile.offset) // stored.itemsize)
    samples = np.frombuffer(data, stored, count, tile.offset)
    values = np.arange(np.iinfo(stored).max + 1)
    scaled = np.round(values / largest * white).clip(0, white).astype(">u2" if white > 255 else np.uint8)
    header = b"%b %d %d %d\n" % (format_, image.width, image.height, white)
    rescaled: bytes = scaled[samples].tobytes()
    return header + rescaled
