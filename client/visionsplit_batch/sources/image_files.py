"""How an image's file is known: by the ending of its name, or by its first bytes."""

import re

IMAGE_SUFFIXES = frozenset(
    (
        ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm",
        ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".avif", ".avifs", ".heic",
        ".heif", ".hif", ".heics", ".heifs",
    )
)  # fmt: skip
"""Endings of names, in lower case."""

HEAD_BYTES = 32
"""As many of a file's first bytes tell what it is."""

# JPEG, PNG, GIF, WebP, BMP, TIFF and BigTIFF in both byte orders, PNM, HEIF and AVIF, JPEG 2000 as file and codestream.
# Two letters alone (BMP, PNM) would also be the beginning of a text, so the header's next field is looked at.
_FIRST_BYTES = re.compile(
    rb"\xff\xd8\xff"
    rb"|\x89PNG\r\n\x1a\n"
    rb"|GIF8[79]a"
    rb"|RIFF....WEBP"
    rb"|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"
    rb"|II[*+]\0|MM\0[*+]"
    rb"|P[1-6f][ \t\r\n#]"
    rb"|....ftyp(?:....)*(?:hei[cxms]|hev[cxm]|mif[12]|msf1|avi[fs])"
    rb"|\0\0\0\x0cjP  \r\n\x87\n"
    rb"|\xff\x4f\xff\x51",
    re.DOTALL,
)


def begins_as_image(head: bytes) -> bool:
    """Whether a file with these first bytes is an image.

    Args:
        head: the first `HEAD_BYTES` of the file, or all of a shorter one.
    """
    return _FIRST_BYTES.match(head) is not None
