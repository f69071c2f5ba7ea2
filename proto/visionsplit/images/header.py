"""What a file says of its image before a pixel is decoded: its size, and what decoding it will take.

What of a file is read in Python is bounded here for each format (`bounds`), whatever the file holds.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from visionsplit.errors import InvalidImageError
from visionsplit.images import bmp, gif, isobmff, jpeg, jpeg2000, png, ppm, tiff, webp
from visionsplit.images.formats import Format, recognise
from visionsplit.images.orientation import read_orientation

# Memory of decoding in bytes for a pixel, measured with the kind of samples that takes most, and rounded up. Of these,
# 4 are the image that Pillow decodes, and 4 the image as RGB or turned upright.
_PIXEL_BYTES = {"WEBP": 16, "GIF": 8, "BMP": 8, "PPM": 16, "JPEG2000": 24, "AVIF": 16, "HEIF": 16}
_JPEG_BYTES, _TURNED_BYTES, _COEFFICIENT_BYTES = 4, 4, 8  # the last of a progressive JPEG
_ENDING_BYTES = 6  # of the pixels that `jpeg.ended` compares
_PNG_BYTES, _WIDE_PNG_BYTES = 8, 16
_APART_BYTES = 7  # of the pixels on their way from another process
_BLOCK_PIXELS, _BLOCK_PIXEL_BYTES = 1 << 20, 64  # of the block that is converted at a time
_COPIES = 3  # of the file


@dataclass(frozen=True)
class ImageLimits:
    """What is decoded at all."""

    max_pixels: int = 64_000_000
    max_side: int = 65_535  # resizing takes memory for each row and each column, however few pixels they have


UNLIMITED = ImageLimits(max_pixels=2**62, max_side=2**31)  # for images that the caller holds already


@dataclass(frozen=True)
class ImageHeader:
    """What is known of an image before it is decoded."""

    width: int  # before any orientation
    height: int
    decoding_bytes: int  # of memory that `decode_image` takes at most, with the image that it returns
    apart: bool  # whether decoding holds the interpreter's lock for seconds; `ApartDecoder` does not


def read_header(data: bytes, limits: ImageLimits) -> ImageHeader:
    """
    Raises:
        InvalidImageError: no data, an unknown format, too many pixels, or a header that is broken, far too long or not
            supported.
    """
    with refusing(data) as form:
        if form.name == "TIFF":
            layout = tiff.read_layout(data)
            width, height = checked_size((layout.width, layout.height), limits)
            tiff.check_parts(layout, len(data))
            return ImageHeader(width, height, tiff.decoding_bytes(layout, len(data)), apart=False)
        announced, pixel_bytes = _announced(form, data)
        width, height = checked_size(announced, limits)
        apart = _is_slow(form, data)
        pixels = width * height
        decoding = pixels * (pixel_bytes + _APART_BYTES * apart) + min(pixels, _BLOCK_PIXELS) * _BLOCK_PIXEL_BYTES
        return ImageHeader(width, height, decoding + _COPIES * len(data), apart)


def checked_size(size: tuple[int, int], limits: ImageLimits) -> tuple[int, int]:
    """
    Raises:
        InvalidImageError: no pixels, or more than `limits` allow.
    """
    width, height = size
    if width < 1 or height < 1:
        raise InvalidImageError(f"the image has {width} x {height} pixels")
    if width * height > limits.max_pixels:
        raise InvalidImageError(
            f"the image has {width} x {height} pixels, more than the {limits.max_pixels} taken here"
        )
    if max(size) > limits.max_side:
        raise InvalidImageError(
            f"the image has {width} x {height} pixels; a side of more than {limits.max_side} is not supported"
        )
    return size


@contextmanager
def refusing(data: bytes) -> Iterator[Format]:
    """Recognise the format, and turn what its decoder raises into InvalidImageError.

    Pillow's plugins raise a dozen kinds of errors at broken files; whichever it is, the file is at fault. Only
    MemoryError passes: the file may be sound.
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
    """The size in a file's header, and the bytes that decoding takes for a pixel."""
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
    """Whether the decoder is written in Python, or is one in C during which Pillow keeps the interpreter's lock."""
    match form.name:
        case "JPEG2000":
            return True
        case "PPM":
            return ppm.is_plain(data)
        case "BMP":
            return bmp.is_run_length(data)
        case _:
            return False
