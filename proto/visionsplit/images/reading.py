"""Decodes image files to 8-bit RGB."""

import io

from PIL import Image
from PIL.ImageFile import ImageFile

from visionsplit.errors import InvalidImageError
from visionsplit.images import bmp, gif, isobmff, jpeg, jpeg2000, png, ppm, tiff, webp
from visionsplit.images.formats import Format
from visionsplit.images.header import refusing
from visionsplit.images.orientation import read_orientation, upright
from visionsplit.images.pixels import to_rgb
from visionsplit.images.size_limits import ImageLimits, checked_size


def decode_image(data: bytes, limits: ImageLimits, *, page: int = 0) -> Image.Image:
    """Decode a file's first frame, rotate it by its EXIF orientation and composite it over white.

    Args:
        data: the file.
        limits: limits on the image's size.
        page: another page of a TIFF; other formats always give their first frame.

    Returns:
        An image of mode RGB; docs/images.md says how other samples become 8-bit RGB.

    Raises:
        InvalidImageError: there is no data, the format is unknown, there are too many pixels, or the file is truncated,
            damaged or of a kind that is not supported.
    """
    with refusing(data) as form:
        match form.name:
            case "TIFF":
                layout = tiff.read_layout(data, page)
                checked_size((layout.width, layout.height), limits)
                return upright(tiff.decode(data, layout), layout.orientation)
            case "PNG":
                chunks = png.split(data)
                rgb = png.decode(chunks, _load(form, chunks.data, limits))
                return upright(rgb, read_orientation(chunks.exif))
            case "JPEG":
                segments = jpeg.split(data)
                jpeg.check_scans(segments)
                return upright(to_rgb(_load_jpeg(form, segments.data, limits)), read_orientation(segments.exif))
            case "WEBP":
                file = webp.split(data)
                return upright(to_rgb(_load(form, file.data, limits)), read_orientation(file.exif))
            case "JPEG2000":
                jpeg2000.check_header(data)
                jpeg2000.check_widths(data)
                return to_rgb(jpeg2000.spread(data, _load(form, data, limits)))
            case "GIF":
                return gif.first_frame(_load(form, gif.bare(data), limits))
            case "BMP":
                return to_rgb(_load(form, bmp.prepared(data), limits))
            case "PPM":
                ppm.check_header(data)
                image = form.open(io.BytesIO(data))
                checked_size(image.size, limits)
                return to_rgb(_load(form, ppm.prepared(data, image), limits))
            case _:
                isobmff.check_boxes(data)
                image = _load(form, data, limits)
                return upright(to_rgb(image), read_orientation(image.info.get("exif")))


def _load(form: Format, data: bytes, limits: ImageLimits) -> ImageFile:
    """Load the image's pixels; no more of them than its header announced and `limits` allow."""
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
