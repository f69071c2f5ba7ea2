"""JPEG 2000: handles sample widths other than 8 bits, which Pillow only shifts to 8 bits."""

from PIL import Image

from visionsplit.errors import InvalidImageError
from visionsplit.images.part_counts import PartCount, boxes

_CODESTREAM = b"\xff\x4f\xff\x51"  # the markers SOC and SIZ
_COMPONENTS = 40  # offset from there to the number of components (2 bytes), which is followed by 3 bytes for each
_SIGNED = 0x80
_MOST_BOXES = 1_000
_READ_BY_VALUE = frozenset({b"pclr", b"res "})
_MOST_VALUE_BYTES = 1 << 13  # a palette of 1024 colours takes 4 thousand
_HEADER_ENDS = frozenset({0x64, 0x90, 0xD9})  # second bytes of the markers of a comment, a tile and the end


def check_header(data: bytes) -> None:
    """Limit the boxes before the pixels.

    Raises:
        InvalidImageError: there are too many boxes before the pixels, or they are too long.
    """
    if data.startswith(_CODESTREAM):
        _check_segments(data, len(_CODESTREAM[:2]))
        return
    count = PartCount("boxes in the JPEG 2000 image", most=_MOST_BOXES)
    for name, start, end in boxes(data, 0, len(data), count):
        if name == b"jp2c":
            _check_segments(data, start + 2)
        if name != b"jp2h":
            continue
        for inner, first, stop in boxes(data, start, end, count):
            if inner in _READ_BY_VALUE and stop - first > _MOST_VALUE_BYTES:
                raise InvalidImageError("a JPEG 2000 image with such a long palette or resolution is not supported")


def _check_segments(data: bytes, start: int) -> None:
    """Check that there are few segments before the first tile or comment, which is how far Pillow reads."""
    count = PartCount("segments in the header of the JPEG 2000 image", most=_MOST_BOXES)
    while start + 4 <= len(data) and data[start + 1] not in _HEADER_ENDS:
        count.add()
        start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")


def check_widths(data: bytes) -> None:
    """Refuse pixels with several samples of more than 8 bits.

    Raises:
        InvalidImageError: the samples are such, and Pillow would turn the brightest values dark.
    """
    widths = _widths(data)
    if len(widths) > 1 and max(widths) > 8:
        raise InvalidImageError(
            f"a JPEG 2000 image with {len(widths)} samples of {max(widths)} bits in a pixel is not supported; "
            "more than 8 bits are read in grey only"
        )


def spread(data: bytes, image: Image.Image) -> Image.Image:
    """Scale samples of fewer than 8 bits of a loaded image up to 255, since shifting leaves the maximum below it."""
    widths = _widths(data)
    if not widths or min(widths) >= 8 or len(widths) != len(image.getbands()) or image.mode == "P":
        return image
    table: list[int] = []
    for width in widths:
        lost = max(8 - width, 0)
        table += [round((value >> lost) * 255 / (255 >> lost)) for value in range(256)]
    return image.point(table)


def _widths(data: bytes) -> list[int]:
    """The number of bits of each component's samples; empty without a codestream."""
    start = data.find(_CODESTREAM)
    if start < 0:
        return []
    place = start + _COMPONENTS
    number = int.from_bytes(data[place : place + 2], "big")
    described = data[place + 2 : place + 2 + 3 * number : 3]
    return [(one & ~_SIGNED) + 1 for one in described]
