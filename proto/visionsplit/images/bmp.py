"""BMP: prepares a file for Pillow's decoder."""

import struct

_COLOURS = 46  # offset of the number of palette colours, in files with a header of 40 bytes or more
_PIXELS = 10  # offset of the position of the pixels
_HEADER, _BITS, _COMPRESSION = 14, 28, 30
_RUN_LENGTHS = (b"\1\0\0\0", b"\2\0\0\0")
_LEAST_HEADER = 40
_UNUSED = b"\1\2\3\0"  # a palette entry that is not grey


def is_run_length(data: bytes) -> bool:
    """Whether the pixels are stored as run lengths, which Pillow decodes in Python."""
    return data[_COMPRESSION : _COMPRESSION + 4] in _RUN_LENGTHS and data[_HEADER] >= _LEAST_HEADER


def prepared(data: bytes) -> bytes:
    """Add a third colour to palettes of two colours with indices of 4 or 8 bits.

    Pillow would read such a file as one with indices of a single bit.
    """
    if len(data) < _COLOURS + 4:
        return data
    (header,) = struct.unpack_from("<I", data, _HEADER)
    (bits,) = struct.unpack_from("<H", data, _BITS)
    (colours,) = struct.unpack_from("<I", data, _COLOURS)
    if header < _LEAST_HEADER or bits not in (4, 8) or colours != 2:
        return data
    (pixels,) = struct.unpack_from("<I", data, _PIXELS)
    palette_end = _HEADER + header + 2 * len(_UNUSED)
    changed = bytearray(data[:palette_end])
    struct.pack_into("<I", changed, _COLOURS, 3)
    struct.pack_into("<I", changed, _PIXELS, min(pixels + len(_UNUSED), 2**32 - 1))
    return bytes(changed) + _UNUSED + data[palette_end:]
