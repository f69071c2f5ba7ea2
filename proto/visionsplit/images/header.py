"""Reads an image's size from its header, and estimates the memory for decoding, before any pixel is decoded.

The work in Python is bounded for each format (`bounds`), whatever the file contains.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from visionsplit.errors import InvalidImageError
from visionsplit.images import bmp, gif, isobmff, jpeg, jpeg2000, png, ppm, tiff, webp
from visionsplit.images.formats import Format, recognise
from visionsplit.images.orientation import read_orientation
from visionsplit.images.size_limits import ImageLimits, checked_size

# Memory for decoding in bytes per pixel, measured with the most expensive kind of samples and rounded up. It includes 4
# for the image that Pillow decodes, and 4 for the image as RGB or rotated.
_PIXEL_BYTES = {"WEBP": 16, "GIF": 8, "BMP": 8, "PPM": 16, "JPEG2000": 24, "AVIF": 16, "HEIF": 16}
_JPEG_BYTES, _TURNED_BYTES, _COEFFICIENT_BYTES = 4, 4, 8  # _COEFFICIENT_BYTES: of a progressive JPEG
_ENDING_BYTES = 6  # for the pixels that `jpeg.ended` compares
_PNG_BYTES, _WIDE_PNG_BYTES = 8, 16
_PROCESS_BYTES = 7  # for pixels that are received from another process
_BLOCK_PIXELS, _BLOCK_PIXEL_BYTES = 1 << 20, 64  # for the block that is being converted
_COPIES = 3  # of the file


@dataclass(frozen=True)
class ImageHeader:
    """What is known about an image before it is decoded."""

    width: int  # as stored, before applying the orientation
    height: int
    decoding_bytes: int  # upper bound of the memory that `decode_image` takes, including the returned image
    needs_process: bool  # whether decoding holds the interpreter lock for seconds, which `ProcessDecoder` avoids


def read_header(data: bytes, limits: ImageLimits) -> ImageHeader:
    """Read a file's header.

    Raises:
        InvalidImageError: there is no data, the format is unknown, there are too many pixels, or the header is damaged,
            too long or not supported.
    """
    with refusing(data) as form:
        if form.name == "TIFF":
            layout = tiff.read_layout(data)
            width, height = checked_size((layout.width, layout.height), limits)
            tiff.check_parts(layout, len(data))
            return ImageHeader(width, height, tiff.decoding_bytes(layout, len(data)), needs_process=False)
        announced, pixel_bytes = _announced(form, data)
        width, height = checked_size(announced, limits)
        needs_process = _is_slow(form, data)
        pixels = width * height
        pixel_bytes += _PROCESS_BYTES * needs_process
        decoding = pixels * pixel_bytes + min(pixels, _BLOCK_PIXELS) * _BLOCK_PIXEL_BYTES
        return ImageHeader(width, height, decoding + _COPIES * len(data), needs_process)


@contextmanager
def refusing(data: bytes) -> Iterator[Format]:
    """Recognise the format, and convert what its decoder raises to InvalidImageError.

    Pillow's plugins raise a dozen types of exceptions for damaged files. All of them mean that the file is at fault,
    except MemoryError, which may occur with a valid file.
    """
    if not data:
        raise InvalidImageError("the image has no data")
    form = recognise(data)
    try:
        yield form
    except (InvalidImageError, MemoryError):
        raise
    except Exception as error:
        raise InvalidImageError(
            f"the {form.name} image cannot be decoded; "
            f"its file is cut off, broken or of a kind that is not supported ({error})"
        ) from error


def _announced(form: Format, data: bytes) -> tuple[tuple[int, int], int]:
    """The size stated in a file's header, and the bytes per pixel that decoding takes."""
    match form.name:
        case "PNG":
            chunks = png.split(data)
            return _size(form, chunks.head + png.PIXELS_BEGIN), _WIDE_PNG_BYTES if chunks.depth == 16 else _PNG_BYTES
        case "JPEG":
            return _announced_by_jpeg(form, jpeg.split(data))
        case "WEBP":
            return webp.split(data).size, _PIXEL_BYTES[form.name]
        case "GIF":
            data = gif.bare(data)
        case "JPEG2000":
            jpeg2000.check_header(data)
        case "PPM":
            ppm.check_header(data)
        case "AVIF" | "HEIF":
            isobmff.check_boxes(data)
    return _size(form, data), _PIXEL_BYTES[form.name]


def _announced_by_jpeg(form: Format, file: jpeg.JpegFile) -> tuple[tuple[int, int], int]:
    image = form.open(io.BytesIO(file.head))
    turned = read_orientation(file.exif) != 1 or image.mode == "CMYK"
    progressive = "progressive" in image.info
    endless = jpeg.lacks_end(file.source)
    extra = _TURNED_BYTES * turned + _COEFFICIENT_BYTES * progressive + _ENDING_BYTES * endless
    return image.size, _JPEG_BYTES + extra


def _size(form: Format, data: bytes) -> tuple[int, int]:
    return form.open(io.BytesIO(data)).size


def _is_slow(form: Format, data: bytes) -> bool:
    """Whether the decoder is written in Python, or is one in C for which Pillow keeps the interpreter lock."""
    match form.name:
        case "JPEG2000":
            return True
        case "PPM":
            return ppm.is_plain(data)
        case "BMP":
            return bmp.is_run_length(data)
        case _:
            return False
