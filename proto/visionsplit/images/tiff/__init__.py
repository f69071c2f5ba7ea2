"""TIFF, decoded by the meaning of its samples.

Pillow maps a TIFF's samples to one of its modes, and for some kinds of files to the wrong one. This package reads the
directory first (`directory`, `accepted`), lets Pillow's libtiff decompress strips and tiles (`parts`), and converts
their bytes to numbers (`samples`) and colours (`colour`).
"""

from visionsplit.images.tiff.accepted import check_parts, layout_of, lost_by_pillow, read_layout
from visionsplit.images.tiff.colour import decode
from visionsplit.images.tiff.layout import Layout, Photometric
from visionsplit.images.tiff.memory import decoding_bytes

__all__ = [
    "Layout",
    "Photometric",
    "check_parts",
    "decode",
    "decoding_bytes",
    "layout_of",
    "lost_by_pillow",
    "read_layout",
]
