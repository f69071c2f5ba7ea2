"""Describes a TIFF's samples and where they are stored."""

from dataclasses import dataclass
from enum import IntEnum

from visionsplit.images.tiff.directory import Tag, Tags


class Photometric(IntEnum):
    """The colour space of the samples."""

    WHITE_IS_ZERO = 0
    BLACK_IS_ZERO = 1
    RGB = 2
    PALETTE = 3
    CMYK = 5
    YCBCR = 6
    CIELAB = 8


class Compression(IntEnum):
    """The compression of strips and tiles."""

    NONE = 1
    CCITT_RLE = 2
    CCITT_GROUP_3 = 3
    CCITT_GROUP_4 = 4
    LZW = 5
    JPEG = 7
    DEFLATE = 8
    DEFLATE_OLD = 32946
    PACKBITS = 32773
    LZMA = 34925
    ZSTD = 50000


CCITT = frozenset({Compression.CCITT_RLE, Compression.CCITT_GROUP_3, Compression.CCITT_GROUP_4})
PREDICTED = frozenset(
    {Compression.LZW, Compression.DEFLATE, Compression.DEFLATE_OLD, Compression.LZMA, Compression.ZSTD}
)
ASSOCIATED, UNASSOCIATED = 1, 2  # kinds of extra samples: alpha that is multiplied into the colours, or is not

_COLOURS = {
    Photometric.WHITE_IS_ZERO: 1,
    Photometric.BLACK_IS_ZERO: 1,
    Photometric.RGB: 3,
    Photometric.PALETTE: 1,
    Photometric.CMYK: 4,
    Photometric.YCBCR: 3,
    Photometric.CIELAB: 3,
}


@dataclass(frozen=True)
class Layout:
    """The samples of one page."""

    width: int
    height: int
    bits: int  # per sample
    samples: int  # per pixel
    sample_type: str  # "uint", "int" or "float"
    photometric: Photometric
    compression: Compression
    order: str  # byte order, "<" or ">"
    separate: bool  # whether each sample has a separate plane
    extra: tuple[int, ...]  # the kinds of the samples after the colours; empty also if the file does not state them
    part_width: int  # of a strip or tile, in pixels
    part_height: int
    tiled: bool
    offsets: tuple[int, ...]  # of strips or tiles
    byte_counts: tuple[int, ...]
    orientation: int
    tags: Tags  # for values that only some kinds need

    @property
    def colours(self) -> int:
        """The number of a pixel's samples that are colours; the others are alpha or ignored."""
        return _COLOURS[self.photometric]

    @property
    def parts_across(self) -> int:
        return -(-self.width // self.part_width)

    @property
    def parts_down(self) -> int:
        return -(-self.height // self.part_height)

    @property
    def samples_of_part(self) -> int:
        """The number of a pixel's samples that are stored in one strip or tile."""
        return 1 if self.separate else self.samples

    @property
    def subsampling(self) -> tuple[int, int]:
        """How many pixels across and down share the colour of YCbCr samples; (1, 1) for others, and for JPEG, whose
        decoder resolves sharing itself."""
        if self.photometric != Photometric.YCBCR or self.compression == Compression.JPEG:
            return 1, 1
        across, down = (self.tags.get(Tag.YCBCR_SUBSAMPLING) or (2, 2))[:2]
        return int(across), int(down)

    @property
    def lowest_bit_first(self) -> bool:
        """Whether the bits of each byte are stored in reverse."""
        return self.one(Tag.FILL_ORDER, 1) == 2

    def one(self, tag: Tag, default: int) -> int:
        """A tag's first value."""
        return first_of(self.tags, tag, default)


def first_of(tags: Tags, tag: Tag, default: int) -> int:
    """A tag's first value."""
    values = tags.get(tag) or (default,)
    return int(values[0])
