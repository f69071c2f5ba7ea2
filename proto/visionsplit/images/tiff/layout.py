"""What a TIFF's samples are and where they lie."""

from dataclasses import dataclass
from enum import IntEnum

from visionsplit.images.tiff.directory import Tag, Tags


class Photometric(IntEnum):
    """What the samples mean."""

    WHITE_IS_ZERO = 0
    BLACK_IS_ZERO = 1
    RGB = 2
    PALETTE = 3
    CMYK = 5
    YCBCR = 6
    CIELAB = 8


class Compression(IntEnum):
    """How strips and tiles are stored."""

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
ASSOCIATED, UNASSOCIATED = 1, 2  # kinds of extra samples: alpha, multiplied into the colours or not

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
    """A page's samples."""

    width: int
    height: int
    bits: int  # of a sample
    samples: int  # of a pixel
    sample_type: str  # "uint", "int" or "float"
    photometric: Photometric
    compression: Compression
    order: str  # of bytes, "<" or ">"
    separate: bool  # each sample in a separate plane
    extra: tuple[int, ...]  # the kinds of the samples behind the colours; empty also if nothing is said about them
    part_width: int  # of a strip or tile, in pixels
    part_height: int
    tiled: bool
    offsets: tuple[int, ...]  # of strips or tiles
    byte_counts: tuple[int, ...]
    orientation: int
    tags: Tags  # what only some kinds need

    @property
    def colours(self) -> int:
        """Samples of a pixel that are colours; the others are alpha or without a meaning here."""
        return _COLOURS[self.photometric]

    @property
    def parts_across(self) -> int:
        return -(-self.width // self.part_width)

    @property
    def parts_down(self) -> int:
        return -(-self.height // self.part_height)

    @property
    def samples_of_part(self) -> int:
        """Samples of a pixel that lie in one strip or tile."""
        return 1 if self.separate else self.samples

    @property
    def subsampling(self) -> tuple[int, int]:
        """Pixels across and down that share the colour of YCbCr samples; (1, 1) for others, and for JPEG, which shares
        colours by itself."""
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
