"""TIFF, read by the meaning of its samples.

Pillow takes a TIFF's samples for those of one of its modes, and for some kinds of file the wrong one. Here the
directory is read first (`directory`, `accepted`), Pillow's libtiff only unpacks strips and tiles (`parts`), and their
bytes become numbers (`samples`) and colours (`colour`).
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
