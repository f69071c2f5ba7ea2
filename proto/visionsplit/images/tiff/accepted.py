"""Derives a layout from a TIFF's tags, and names each kind of file that is not supported."""

from typing import Any

from visionsplit.errors import InvalidImageError
from visionsplit.images.tiff.directory import Tag, Tags, read_directory
from visionsplit.images.tiff.layout import CCITT, PREDICTED, Compression, Layout, Photometric, first_of

_BITS = {"uint": (*range(1, 17), 32, 64), "int": (8, 16, 32, 64), "float": (16, 32, 64)}
_SAMPLE_FORMATS = {1: "uint", 2: "int", 3: "float", 4: "uint"}  # 4 means undefined
_TYPE_NAMES = {"uint": "unsigned integer", "int": "signed integer", "float": "floating-point"}
_SAMPLE_FORMAT_NAMES = {5: "complex integer samples", 6: "complex floating-point samples"}
_PHOTOMETRIC_NAMES = {
    4: "a transparency mask",
    9: "ICC L*a*b* colours",
    10: "ITU L*a*b* colours",
    32803: "a camera's raw samples",
    32844: "LogL samples",
    32845: "LogLuv samples",
    34892: "a camera's raw samples",
    51177: "a depth map",
}
_COMPRESSION_NAMES = {
    6: "old-style JPEG",
    9: "JBIG",
    10: "JBIG",
    32766: "NeXT",
    32771: "word-aligned CCITT",
    32809: "ThunderScan",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34661: "JBIG",
    34676: "SGI LogLuv",
    34677: "SGI LogLuv",
    34887: "LERC",
    34892: "lossy JPEG of DNG",
    34933: "PNG",
    34934: "JPEG XR",
    22610: "JPEG XR",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_JPEG_KINDS = {
    Photometric.WHITE_IS_ZERO,
    Photometric.BLACK_IS_ZERO,
    Photometric.RGB,
    Photometric.YCBCR,
    Photometric.CMYK,
}
_MOST_SAMPLES = 32
_MOST_PART_BYTES = 1 << 29  # of a decompressed strip or tile: 64 million pixels of 16-bit RGBA
_LARGE_TILE = 1 << 22  # pixels that a tile may have in the smallest image
_CMYK_INKS = 1
_MOST_PARTS = 1 << 16  # the 32 x 32 tiles of 64 million pixels
_MOST_BYTES = 1 << 30  # of all strips or tiles, decompressed: a file may claim for each that it is the whole file


def read_layout(data: bytes, page: int = 0) -> Layout:
    """Read the layout of one page.

    Raises:
        InvalidImageError: the directory is damaged, or describes something that is not supported.
    """
    tags, order = read_directory(data, page)
    layout = layout_of(tags, order)
    if page == 0 and (Tag.DNG_VERSION in tags or (Tag.SUB_IFDS in tags and layout.one(Tag.NEW_SUBFILE_TYPE, 0) & 1)):
        raise InvalidImageError("a TIFF that is a camera's raw file is not supported: its first image is a small copy")
    return layout


def layout_of(tags: Tags, order: str = "<") -> Layout:
    """The layout that tags describe, independent of where the samples are.

    Raises:
        InvalidImageError: the tags describe something that is not supported.
    """
    layout = _layout(tags, order)
    _check_kind(layout)
    _check_samples(layout)
    return layout


def lost_by_pillow(layout: Layout) -> str | None:
    """The properties of the samples that Pillow's pixels have lost, in words; None if there are none."""
    if layout.separate and (layout.bits == 16 or layout.colours == 1):
        return f"{layout.samples} samples of {layout.bits} bits in planes"
    plain = layout.sample_type == "uint" and layout.bits <= 16
    if not plain and layout.order == ">" and layout.compression != Compression.NONE:
        return "compressed samples in big-endian order"
    if layout.sample_type == "int" and layout.bits == 8:
        return "signed 8-bit samples"
    if layout.photometric == Photometric.PALETTE and max(layout.tags.get(Tag.COLOR_MAP) or (0,)) < 256:
        return "a palette of 8-bit values"
    if layout.compression == Compression.NONE and layout.photometric == Photometric.YCBCR:
        return "uncompressed YCbCr samples"
    return None


def _layout(tags: Tags, order: str) -> Layout:
    width, height = first_of(tags, Tag.WIDTH, 0), first_of(tags, Tag.LENGTH, 0)
    compression = _known(Compression, first_of(tags, Tag.COMPRESSION, 1), "compressed as", _COMPRESSION_NAMES)
    photometric = _known(Photometric, first_of(tags, Tag.PHOTOMETRIC, 0), "with", _PHOTOMETRIC_NAMES)
    bits, samples = _bits_and_samples(tags)
    tiled = Tag.TILE_OFFSETS in tags
    extra = tuple(int(kind) for kind in tags.get(Tag.EXTRA_SAMPLES, ()))
    # Files may give a number far above the height, to say that a strip holds all rows.
    rows = min(first_of(tags, Tag.ROWS_PER_STRIP, height), height)
    return Layout(
        width=width,
        height=height,
        bits=bits,
        samples=samples,
        sample_type=_sample_type(tags),
        photometric=photometric,
        compression=compression,
        order=order,
        separate=first_of(tags, Tag.PLANAR_CONFIGURATION, 1) == 2 and samples > 1,
        extra=extra,
        part_width=first_of(tags, Tag.TILE_WIDTH, 0) if tiled else width,
        part_height=first_of(tags, Tag.TILE_LENGTH, 0) if tiled else rows,
        tiled=tiled,
        offsets=tags.get(Tag.TILE_OFFSETS if tiled else Tag.STRIP_OFFSETS, ()),
        byte_counts=tags.get(Tag.TILE_BYTE_COUNTS if tiled else Tag.STRIP_BYTE_COUNTS, ()),
        orientation=first_of(tags, Tag.ORIENTATION, 1),
        tags=tags,
    )


def _bits_and_samples(tags: Tags) -> tuple[int, int]:
    bits = tags.get(Tag.BITS_PER_SAMPLE) or (1,)
    samples = first_of(tags, Tag.SAMPLES_PER_PIXEL, len(bits))
    if len(set(bits[:samples])) > 1:
        raise _unsupported(f"samples of different widths ({', '.join(str(one) for one in bits[:samples])} bits)")
    return int(bits[0]), samples


def _sample_type(tags: Tags) -> str:
    formats = set(tags.get(Tag.SAMPLE_FORMAT) or (1,))
    if len(formats) > 1:
        raise _unsupported("samples of different formats")
    number = formats.pop()
    if number not in _SAMPLE_FORMATS:
        raise _unsupported(_SAMPLE_FORMAT_NAMES.get(number, f"the sample format {number}"))
    return _SAMPLE_FORMATS[number]


def _check_kind(layout: Layout) -> None:
    if layout.photometric == Photometric.CMYK and layout.one(Tag.INK_SET, _CMYK_INKS) != _CMYK_INKS:
        raise _unsupported("inks other than CMYK")
    if not layout.colours <= layout.samples <= _MOST_SAMPLES:
        raise _unsupported(f"{layout.samples} samples in a pixel of {_spelled(layout.photometric)}")
    eight_bits = layout.bits == 8 and layout.sample_type == "uint"
    if layout.compression in CCITT and (layout.bits, layout.samples) != (1, 1):
        raise _unsupported("CCITT compression of anything but one bit for each pixel")
    if layout.compression == Compression.JPEG and not (
        eight_bits and layout.photometric in _JPEG_KINDS and layout.samples == layout.colours and not layout.separate
    ):
        raise _unsupported("JPEG compression of anything but 8-bit grey, RGB, YCbCr or CMYK")


def _check_samples(layout: Layout) -> None:
    kind = f"{layout.bits}-bit {_TYPE_NAMES[layout.sample_type]} samples"
    if layout.bits not in _BITS[layout.sample_type]:
        raise _unsupported(kind)
    if layout.photometric == Photometric.PALETTE and (layout.sample_type != "uint" or layout.bits > 16):
        raise _unsupported(f"{kind} as indices of a palette")
    if layout.photometric == Photometric.CMYK and (layout.sample_type != "uint" or not 8 <= layout.bits <= 16):
        raise _unsupported(f"{kind} as CMYK inks")
    if layout.photometric == Photometric.YCBCR and (layout.sample_type != "uint" or layout.bits != 8):
        raise _unsupported(f"{kind} as YCbCr")
    if layout.photometric == Photometric.CIELAB and layout.bits not in (8, 16):
        raise _unsupported(f"{kind} as CIE L*a*b*")
    if layout.subsampling != (1, 1):
        across, down = layout.subsampling
        if layout.separate or layout.samples != 3 or across not in (1, 2, 4) or down not in (1, 2, 4):
            raise _unsupported(f"YCbCr colours shared by {across} x {down} pixels in this arrangement")
    predictor = layout.one(Tag.PREDICTOR, 1)
    if layout.compression in PREDICTED and predictor != 1:
        whole_bytes = layout.bits in (8, 16, 32, 64)
        if not (predictor == 2 and whole_bytes) and not (predictor == 3 and layout.sample_type == "float"):
            raise _unsupported(f"the predictor {predictor} on {kind}")
        if layout.subsampling != (1, 1):
            raise _unsupported("a predictor on YCbCr colours that pixels share")


def check_parts(layout: Layout, file_bytes: int) -> None:
    """Check the strips or tiles.

    Raises:
        InvalidImageError: strips or tiles are missing, lie beyond the end of the file, or are far too large.
    """
    if min(layout.width, layout.height, layout.part_width, layout.part_height) < 1:
        raise InvalidImageError("the TIFF is broken: it says nothing about its size or that of its strips or tiles")
    if layout.part_width * layout.part_height > max(_LARGE_TILE, 4 * layout.width * layout.height):
        raise _unsupported("tiles far larger than the image")
    planes = layout.samples if layout.separate else 1
    needed = layout.parts_across * layout.parts_down * planes
    if len(layout.offsets) < needed:
        raise InvalidImageError(f"the TIFF is broken: it has {len(layout.offsets)} of {needed} strips or tiles")
    if layout.part_width * layout.part_height * layout.samples_of_part * layout.bits > 8 * _MOST_PART_BYTES:
        raise _unsupported(f"strips or tiles of more than {_MOST_PART_BYTES >> 20} MiB")
    if needed > _MOST_PARTS:
        raise _unsupported(f"{needed} strips or tiles, more than {_MOST_PARTS},")
    if needed * layout.part_width * layout.part_height * layout.samples_of_part * layout.bits > 8 * _MOST_BYTES:
        raise _unsupported(f"samples of more than {_MOST_BYTES >> 20} MiB")
    if len(layout.byte_counts) < needed and layout.compression != Compression.NONE and needed > 1:
        raise InvalidImageError("the TIFF is broken: it does not say how long its strips or tiles are")
    if layout.offsets and max(layout.offsets[:needed]) >= file_bytes:
        raise InvalidImageError("the TIFF is cut off: strips or tiles lie beyond the end of the file")


def _known(kinds: Any, number: int, words: str, names: dict[int, str]) -> Any:  # noqa: ANN401 - an enumeration
    try:
        return kinds(number)
    except ValueError:
        known = f"{words} {names[number]}" if number in names else f"with {kinds.__name__.lower()} {number}"
        raise InvalidImageError(f"a TIFF {known} is not supported") from None


def _unsupported(what: str) -> InvalidImageError:
    return InvalidImageError(f"a TIFF with {what} is not supported")


def _spelled(photometric: Photometric) -> str:
    return photometric.name.replace("_", " ")
