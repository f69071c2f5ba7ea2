"""Decodes image files and converts Pillow images to 8-bit RGB, by one rule for the encoder, the client and the tool.

docs/images.md says which files are read, how their samples are interpreted and what is refused. The package depends
only on Pillow and NumPy.
"""

from visionsplit.images.formats import HEAD_BYTES, SUFFIXES, available_formats, begins_as_image
from visionsplit.images.header import ImageHeader, read_header
from visionsplit.images.pillow_images import file_of, pillow_to_rgb
from visionsplit.images.process_decoder import ProcessDecoder
from visionsplit.images.reading import decode_image
from visionsplit.images.size_limits import UNLIMITED, ImageLimits

__all__ = [
    "HEAD_BYTES",
    "SUFFIXES",
    "UNLIMITED",
    "ImageHeader",
    "ImageLimits",
    "ProcessDecoder",
    "available_formats",
    "begins_as_image",
    "decode_image",
    "file_of",
    "pillow_to_rgb",
    "read_header",
]
