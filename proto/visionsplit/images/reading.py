"""Files as 8-bit RGB images, with the size known before a pixel is decoded."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image
from PIL.ImageFile import ImageFile

from visionsplit.errors import InvalidImageError
from visionsplit.images import bmp, gif, jpeg, jpeg2000, png, tiff
from visionsplit.images.formats import Format, recognise
from visionsplit.images.orientation import read_orientation, upright
from visionsplit.images.pixels import to_rgb


@dataclass(frozen=True)
class ImageLimits:
    """What is decoded at all."""

    max_pixels: int = 64_000_000


UNLIMITED = ImageLimits(max_pixels=2**62)  # for images that the caller holds already


def read_size(data: bytes, limits: ImageLimits) -> tuple[int, int]:
    """Width and height as a file's header announces them, before any orientation. No pixel is decoded.

    Raises:
        InvalidImageError: no data, an unknown format, too many pixels, or a header that is broken or not supported.
    """
    with _refusing(data) as form:
        if form.name == "TIFF":
            layout = tiff.read_layout(data)
            size = layout.width, layout.height
        else:
            size = _open(form, data).size
        return checked_size(size, limits)


def decode_image(data: bytes, limits: ImageLimits, *, page: int = 0) -> Image.Image:
    """Decode a file's first frame, turn it upright by its EXIF orientation and lay it over white.

    Args:
        page: another one of a TIFF; other formats give their first frame.

    Returns:
        An image of mode RGB; docs/images.md says how other samples become 8-bit RGB.

    Raises:
        InvalidImageError: no data, an unknown format, too many pixels, or a file that is cut off, broken or of a kind
            that is not supported.
    """
    with _refusing(data) as form:
        match form.name:
            case "TIFF":
                layout = tiff.read_layout(data, page)
                checked_size((layout.width, layout.height), limits)
                return upright(tiff.decode(data, layout), layout.orientation)
            case "PNG":
                bare = png.split(data)
                return upright(png.decode(bare, _load(form, bare.data, limits)), read_orientation(bare.exif))
            case "JPEG":
                segments = jpeg.split(data)
                return upright(to_rgb(_load_jpeg(form, segments.data, limits)), read_orientation(segments.exif))
            case "JPEG2000":
                jpeg2000.check_widths(data)
                return to_rgb(jpeg2000.spread(data, _load(form, data, limits)))
            case "GIF":
                return gif.first_frame(_load(form, data, limits))
            case "BMP":
                return to_rgb(_load(form, bmp.prepared(data), limits))
            case _:
                image = _load(form, data, limits)
                return upright(to_rgb(image), read_orientation(image.info.get("exif")))


def _open(form: Format, data: bytes) -> ImageFile:
    if form.name == "PNG":
        data = png.split(data).data
    elif form.name == "JPEG":
        data = jpeg.split(data).data
    return form.open(io.BytesIO(data))


def _load(form: Format, data: bytes, limits: ImageLimits) -> ImageFile:
    """The image with its pixels; no more of them than its header announced and `limits` allow."""
    image = form.open(io.BytesIO(data))
    announced = checked_size(image.size, limits)
    image.load()
    if image.size != announced:
        raise InvalidImageError(
            f"the {form.name} file announces {announced[0]} x {announced[1]} pixels "
            f"and holds {image.width} x {image.height}"
        )
    return image


def _load_jpeg(form: Format, data: bytes, limits: ImageLimits) -> ImageFile:
    if jpeg.lacks_end(data):
        checked_size(form.open(io.BytesIO(data)).size, limits)  # before `ended` decodes it
        data = jpeg.ended(data)
    return _load(form, data, limits)


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
    return size


@contextmanager
def _refusing(data: bytes) -> Iterator[Format]:
    """Recognise the format, and turn whatever its decoder raises into InvalidImageError.

    Pillow's plugins raise a dozen kinds of errors at broken files; whichever it is, the file is at fault.
    """
    if not data:
        raise InvalidImageError("the image has no data")
    form = recognise(data)
    try:
        yield form
    except InvalidImageError:
        raise
    except Exception as error:
        raise InvalidImageError(
            f"the {form.name} image cannot be decoded; "
            f"its file is cut off, broken or of a kind that is not supported ({error})"
        ) from error
