"""AVIF and HEIF: limits the number of boxes and the size of the EXIF block.

The decoders iterate over the boxes while holding the interpreter lock, and Pillow parses the EXIF in Python.
"""

from collections.abc import Iterator

from visionsplit.errors import InvalidImageError
from visionsplit.images.part_counts import PartCount, boxes

_MOST_BOXES = 10_000
_MOST_EXIF_BYTES = 1 << 17
# Boxes that contain boxes, and the offset of these in the content, after a version, flags and a number.
_CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"iinf": 6, b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0}
_LONG_COUNT = 8  # the offset in an iinf box if its version is not 0
_ITEM, _LOCATIONS = b"infe", b"iloc"
_EXIF = b"Exif"


def check_boxes(data: bytes) -> None:
    """Check an AVIF or HEIF file.

    Raises:
        InvalidImageError: there are too many boxes or items, or too much EXIF.
    """
    count = PartCount("boxes and items in the image", most=_MOST_BOXES)
    exif: set[int] = set()
    lengths: dict[int, int] = {}
    for name, start, end in _all_boxes(data, 0, len(data), count):
        if name == _ITEM:
            wide = 2 if data[start] >= 3 else 0  # how many bytes the item's number has beyond two
            if data[start + 8 + wide : start + 12 + wide] == _EXIF:
                exif.add(int.from_bytes(data[start + 4 : start + 6 + wide], "big"))
        elif name == _LOCATIONS:
            lengths |= _lengths(data[start:end], count)
    if any(lengths.get(item, 0) > _MOST_EXIF_BYTES for item in exif):
        raise InvalidImageError(f"an image with more than {_MOST_EXIF_BYTES} bytes of EXIF is not supported")


def _all_boxes(data: bytes, start: int, end: int, count: PartCount) -> Iterator[tuple[bytes, int, int]]:
    for name, first, stop in boxes(data, start, end, count):
        yield name, first, stop
        if name in _CONTAINERS:
            skipped = _LONG_COUNT if name == b"iinf" and data[first] else _CONTAINERS[name]
            yield from _all_boxes(data, first + skipped, stop, count)


def _lengths(content: bytes, count: PartCount) -> dict[int, int]:
    """The size of each item in bytes, from the box with the items' locations (ISO/IEC 14496-12, 8.11.3)."""
    version = content[0]
    offset_size, length_size = content[4] >> 4, content[4] & 15
    base_size, index_size = content[5] >> 4, content[5] & 15 if version else 0
    number_size = 4 if version == 2 else 2
    place = 6

    def read(size: int) -> int:
        nonlocal place
        place += size
        return int.from_bytes(content[place - size : place], "big")

    lengths: dict[int, int] = {}
    for _ in range(read(number_size)):
        count.add()
        item = read(number_size)
        place += (2 if version else 0) + 2 + base_size
        total = 0
        for _ in range(read(2)):
            count.add()
            place += index_size + offset_size
            total += read(length_size)
        lengths[item] = total
    return lengths
