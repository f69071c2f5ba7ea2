"""The accepted file formats: how each is recognised, and which Pillow class reads it.

The classes are called directly instead of through `Image.open`. This tells why a file cannot be read, leaves Pillow's
registry unchanged, and never tries a format that is not listed here. Formats that run other programs or interpret
vector drawings (EPS, PDF, SVG, WMF) are not accepted. Neither are TGA, which has no signature to recognise it by, and
ICO, whose entries are files with sizes that the header need not state.
"""

import base64
import binascii
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from PIL import features
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from visionsplit.errors import InvalidImageError
from visionsplit.images.other_files import name_of

HEAD_BYTES = 64
"""How many of a file's first bytes show its format: every signature, and the first brands of an ISO base media file."""

_BMP_HEADER_BYTES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1"}
)


@dataclass(frozen=True)
class Format:
    """An accepted file format."""

    name: str  # Pillow's name
    suffixes: tuple[str, ...]  # of file names, in lower case with the dot
    matches: Callable[[bytes], bool]  # tests a file's first bytes
    open: Callable[[io.BytesIO], ImageFile]  # reads only the header
    available: Callable[[], bool] = lambda: True  # whether the decoder is installed


def recognise(data: bytes) -> Format:
    """The format of a file, from its first bytes.

    Raises:
        InvalidImageError: the format is unknown or not accepted, or its decoder is not installed.
    """
    head = data[:HEAD_BYTES]
    found = _find(head)
    if found is None:
        named = "the base64 text of an image, which has to be decoded first," if _is_base64(head) else name_of(data)
        what = f"{named} is" if named else f"{len(data)} bytes are"
        raise InvalidImageError(f"{what} not an image in one of the formats {', '.join(available_formats())}")
    if not found.available():
        hint = "; install the package pi-heif" if found.name == "HEIF" else "; Pillow was built without it"
        raise InvalidImageError(f"the decoder for {found.name} is not installed here{hint}")
    return found


def begins_as_image(head: bytes) -> bool:
    """Whether a file with these first bytes, at least `HEAD_BYTES` or all of it, is in an accepted format.

    The decoder need not be installed here, since another machine may decode the file.
    """
    return _find(head) is not None


def available_formats() -> tuple[str, ...]:
    """Pillow's names of the formats whose decoders are installed."""
    return tuple(form.name for form in _FORMATS if form.available())


def _find(head: bytes) -> Format | None:
    return next((form for form in _FORMATS if form.matches(head)), None)


def _is_base64(head: bytes) -> bool:
    """Whether the first bytes are base64 text of an accepted image."""
    text = b"".join(head.split())
    try:
        return begins_as_image(base64.b64decode(text[: len(text) // 4 * 4], validate=True))
    except binascii.Error:
        return False


def _brands(head: bytes) -> frozenset[bytes]:
    """The brands that an ISO base media file declares: the major brand and the compatible ones."""
    if head[4:8] != b"ftyp":
        return frozenset()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return frozenset(head[start : start + 4] for start in (8, *range(16, end - 3, 4)))


def _starts(*signatures: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(signatures)


def _is_bmp(head: bytes) -> bool:
    """The two letters may also begin a text, so the length of the second header, which shows its version, counts."""
    return head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES


def _is_ppm(head: bytes) -> bool:
    return head[:1] == b"P" and head[1:2] in tuple(b"%c" % one for one in b"123456f") and head[2:3].isspace()


def _has_heif() -> bool:
    try:
        import pi_heif  # noqa: F401 - optional, and loads a C library
    except ImportError:
        return False
    return True


def _open_heif(file: io.BytesIO) -> ImageFile:
    from pi_heif import HeifImageFile

    return cast(ImageFile, HeifImageFile(file))


_FORMATS = (
    Format("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), _starts(b"\xff\xd8\xff"), JpegImageFile),
    Format("PNG", (".png", ".apng"), _starts(b"\x89PNG\r\n\x1a\n"), PngImageFile),
    Format("WEBP", (".webp",), lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP", WebPImageFile),
    Format("GIF", (".gif",), _starts(b"GIF87a", b"GIF89a"), GifImageFile),
    Format("BMP", (".bmp",), _is_bmp, BmpImageFile),
    Format("TIFF", (".tif", ".tiff"), _starts(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImageFile),
    Format("PPM", (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"), _is_ppm, PpmImageFile),
    Format(
        "JPEG2000",
        (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
        _starts(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
        Jpeg2KImageFile,
        lambda: features.check_codec("jpg_2000"),
    ),
    Format(
        "AVIF",
        (".avif", ".avifs"),
        lambda head: bool(_brands(head) & _AVIF_BRANDS),
        AvifImageFile,
        lambda: features.check_module("avif"),
    ),
    Format(
        "HEIF",
        (".heic", ".heif", ".hif", ".heics", ".heifs"),
        lambda head: bool(_brands(head) & _HEIF_BRANDS),
        _open_heif,
        _has_heif,
    ),
)

SUFFIXES = frozenset(suffix for form in _FORMATS for suffix in form.suffixes)
"""The suffixes of accepted image files, in lower case with the dot."""
