"""How much memory the decoding of a TIFF takes."""

from visionsplit.images.tiff.layout import CCITT, Compression, Layout
from visionsplit.images.tiff.parts import GROUP_BYTES, channels_of, most_stored, shape_of
from visionsplit.images.tiff.samples import BLOCK_SAMPLES

_IMAGE_BYTES = 4  # of a pixel of the image, and as many of its copy that is turned
_BLOCK_SAMPLE_BYTES = 48  # of a sample as it becomes a colour
_STORED_COPIES = 2  # of strips and tiles, for Pillow and in libtiff
_ZSTD_WINDOW_BYTES = 1 << 27  # the most that its decoder accepts


def decoding_bytes(layout: Layout, file_bytes: int) -> int:
    """Memory that decoding takes at most, with the file and the image.

    Args:
        layout: that `check_parts` has accepted.
        file_bytes: of the file.
    """
    image = _IMAGE_BYTES * layout.width * layout.height
    row = layout.part_width * layout.samples * layout.subsampling[1]
    block = min(max(row, BLOCK_SAMPLES), row * layout.part_height)
    # The image is turned after its last strip or tile has been let go.
    return file_bytes + image + max(image, _parts_bytes(layout, file_bytes) + _BLOCK_SAMPLE_BYTES * block)


def _parts_bytes(layout: Layout, file_bytes: int) -> int:
    """A strip or tile of each plane, or a group of small ones, as they are stored, unpacked and read."""
    shape = shape_of(layout, layout.part_height)
    part = shape.rows * shape.row_bytes
    if layout.compression in CCITT:
        part *= 8  # a byte for each bit
    planes = layout.samples if layout.separate else 1
    number = layout.parts_across * layout.parts_down * planes
    if layout.compression == Compression.NONE:
        return 2 * planes * part * layout.lowest_bit_first  # else the file's bytes are read in place
    stored = min(number * most_stored(layout, shape), max(file_bytes, GROUP_BYTES))
    unpacked = max(part, min(GROUP_BYTES, number * part))
    image = unpacked * 4 // 3 if channels_of(layout, shape) == 3 else unpacked  # Pillow's: 4 bytes for 3 channels
    arrays = max(planes * part, unpacked)
    if number > planes:
        arrays += arrays  # the strips or tiles before are let go only after these have been unpacked
    return _STORED_COPIES * stored + image + arrays + _more_than_array(layout, image, part)


def _more_than_array(layout: Layout, image: int, part: int) -> int:
    """What libtiff takes while it unpacks a part beyond the array that takes its place afterwards: it has a buffer of
    that size, and its decoders remember what came before."""
    match layout.compression:
        case Compression.JPEG:
            return (image - part) + 2 * part  # a buffer for the image's bytes; a progressive file's coefficients
        case Compression.LZMA:
            return part
        case Compression.ZSTD:
            return min(part, _ZSTD_WINDOW_BYTES)
        case _:
            return 0
