"""Converts Pillow images that a caller holds, with the same result as for the files they were opened from."""

import io

from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from visionsplit.errors import InvalidImageError
from visionsplit.images.formats import recognise
from visionsplit.images.loaded import loaded_to_rgb
from visionsplit.images.reading import decode_image
from visionsplit.images.size_limits import UNLIMITED, checked_size


def file_of(image: Image.Image) -> bytes:
    """Encode the image as a file: the original if the image was opened and not loaded, else a PNG of `pillow_to_rgb`.

    Raises:
            InvalidImageError: raised by `pillow_to_rgb`.
    """
    file = _unloaded(image)
    if file is not None and not image.tell():
        return file
    buffer = io.BytesIO()
    pixels = pillow_to_rgb(image).copy()  # it may be the caller's own image
    pixels.info = {}  # otherwise Pillow would write its profile and transparent colour into the file
    pixels.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def pillow_to_rgb(image: Image.Image) -> Image.Image:
    """The image as 8-bit RGB, rotated by its EXIF orientation and composited over white.

    Until Pillow has loaded an image, its file is available and is decoded. Afterwards there are only pixels in one of
    Pillow's modes, and those properties of the file that Pillow has kept.

    Raises:
        InvalidImageError: the image cannot be loaded, or Pillow has lost the meaning of its samples.
    """
    if isinstance(image, ImageFile) and not hasattr(image, "fp"):
        image = _without_file(image)
    file = _unloaded(image)
    if file is not None:
        return decode_image(file, UNLIMITED, page=image.tell())
    checked_size(image.size, UNLIMITED)
    try:
        image.load()
    except Exception as error:  # decoders raise many types of exceptions
        raise InvalidImageError(f"the Pillow image cannot be loaded: {_reason(image, error)}") from error
    try:
        return loaded_to_rgb(image)
    except (TypeError, ValueError) as error:
        if "transparency" not in image.info:
            raise
        raise InvalidImageError(f'the Pillow image has an invalid info["transparency"]: {error}') from error


def _reason(image: Image.Image, error: Exception) -> str:
    """Why an image cannot be loaded. Pillow gives no reason if it has closed the file."""
    if isinstance(image, ImageFile) and image.tile and image.fp is None:
        return (
            "its file was closed before its pixels were read, for example by a with statement or by verify(); call "
            "load() before the file is closed, or give the path"
        )
    return str(error) or type(error).__name__


def _without_file(image: ImageFile) -> Image.Image:
    """A plain copy of an unpickled image, whose class expects attributes that pickling does not keep."""
    plain = image.copy()
    plain.format = image.format
    return plain


def _unloaded(image: Image.Image) -> bytes | None:
    """The file of an image that Pillow has opened and not loaded; None if there is none or it cannot be used."""
    if not isinstance(image, ImageFile) or not image.tile or image.fp is None or getattr(image.fp, "closed", False):
        return None
    if image.tell() and not isinstance(image, TiffImageFile):  # decoding the file would give its first frame
        return None
    place = image.fp.tell()
    try:
        image.fp.seek(0)
        data = image.fp.read()
    finally:
        image.fp.seek(place)
    try:
        recognise(data)
    except InvalidImageError:  # Pillow reads more formats than are accepted as files
        return None
    return None if _is_drafted(image, data) else data


def _is_drafted(image: ImageFile, data: bytes) -> bool:
    """Whether Image.draft has made Pillow decode a JPEG at a fraction of its size, or without its colours."""
    if image.format not in ("JPEG", "MPO"):
        return False
    whole = JpegImageFile(io.BytesIO(data))
    return (whole.mode, whole.size) != (image.mode, image.size)
