"""GIF: reads the first frame, placed on its screen."""

import re

from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from visionsplit.images.part_counts import PartCount, find
from visionsplit.images.pixels import to_rgb

_HEADER = 13
_HAS_PALETTE, _PALETTE_BITS = 0x80, 0x07
_EXTENSION = b"!"
_CONTROL = 0xF9
_TRANSPARENT = 0x01
_BLOCK = re.compile(rb"[!,;]")  # the first byte of a block; bytes between blocks are skipped


def bare(data: bytes) -> bytes:
    """The file without the blocks before its first frame, except for that frame's transparent colour.

    Raises:
        InvalidImageError: there are too many blocks before the first frame.
    """
    flags = data[10] if len(data) > 10 else 0
    first = _HEADER + (3 << (flags & _PALETTE_BITS) + 1 if flags & _HAS_PALETTE else 0)
    blocks, control, start = PartCount("blocks before the first frame of the GIF"), b"", first
    while (start := find(_BLOCK, data, start)) >= 0:
        blocks.add()
        if data[start : start + 1] != _EXTENSION:
            break
        content = data[start + 3 : start + 7]
        if data[start + 1 : start + 3] == bytes([_CONTROL, 4]) and len(content) == 4 and content[0] & _TRANSPARENT:
            control = _EXTENSION + bytes([_CONTROL, 4, _TRANSPARENT, 0, 0, content[3], 0])
        start = _end_of_chain(data, start + 2, blocks)
    return b"".join([data[:first], control, memoryview(data)[start:] if start >= 0 else b""])


def _end_of_chain(data: bytes, start: int, blocks: PartCount) -> int:
    """The end of a chain of blocks, each of which begins with its length; the last one has length 0."""
    while start < len(data) and (length := data[start]):
        blocks.add()
        start += length + 1
    return start + 1


def first_frame(image: Image.Image) -> Image.Image:
    """A loaded first frame as RGB. The part of the screen that it does not cover is white; Pillow uses colour 0."""
    rgb = to_rgb(image)
    assert isinstance(image, GifImageFile), "Pillow's class for the format"
    covered = image.dispose_extent
    if covered in (None, (0, 0, *image.size)):
        return rgb
    screen = Image.new("RGB", image.size, "white")
    screen.paste(rgb.crop(covered), covered)
    return screen
