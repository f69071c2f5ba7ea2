"""BMP: what is handed to the decoder."""

import struct

_COLOURS = 46  # where a header of 40 bytes or more says how many colours its palette has
_PIXELS = 10  # where the file says where its pixels begin
_HEADER, _BITS, _COMPRESSION = 14, 28, 30
_RUN_LENGTHS = (b"\1\0\0\0", b"\2\0\0\0")
_LEAST_HEADER = 40
_UNUSED = b"\1\2\3\0"  # a colour that is not grey


def is_run_length(data: bytes) -> bool:
    """Whether runs of pixels are stored by their lengths, which Pillow's decoder reads in Python."""
    return data[_COMPRESSION : _COMPRESSION + 4] in _RUN_LENGTHS and data[_HEADER] >= _LEAST_HEADER


def prepared(data: bytes) -> bytes:
    """The file, with a third colour where 4 or 8 bits choose between two: Pillow takes such bits for single ones."""
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
