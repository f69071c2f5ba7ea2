"""Estimates the memory that decoding a TIFF takes."""

from visionsplit.images.tiff.layout import CCITT, Compression, Layout
from visionsplit.images.tiff.parts import GROUP_BYTES, channels_of, most_stored, shape_of
from visionsplit.images.tiff.samples import BLOCK_SAMPLES

_IMAGE_BYTES = 4  # per pixel of the image, and again for its rotated copy
_BLOCK_SAMPLE_BYTES = 48  # per sample while it is converted to a colour
_STORED_COPIES = 2  # of stored strips and tiles, for Pillow and in libtiff
_ZSTD_WINDOW_BYTES = 1 << 27  # the largest window that its decoder accepts


def decoding_bytes(layout: Layout, file_bytes: int) -> int:
    """Upper bound of the memory for decoding, including the file and the image.

    Args:
        layout: a layout that `check_parts` has accepted.
        file_bytes: the size of the file.
    """
    image = _IMAGE_BYTES * layout.width * layout.height
    row = layout.part_width * layout.samples * layout.subsampling[1]
    block = min(max(row, BLOCK_SAMPLES), row * layout.part_height)
    # The image is rotated after its last strip or tile has been freed.
    return file_bytes + image + max(image, _parts_bytes(layout, file_bytes) + _BLOCK_SAMPLE_BYTES * block)


def _parts_bytes(layout: Layout, file_bytes: int) -> int:
    """A strip or tile of each plane, or a group of small ones: stored, decompressed and as arrays."""
    shape = shape_of(layout, layout.part_height)
    part = shape.rows * shape.row_bytes
    if layout.compression in CCITT:
        part *= 8  # a byte for each bit
    planes = layout.samples if layout.separate else 1
    number = layout.parts_across * layout.parts_down * planes
    if layout.compression == Compression.NONE:
        return 2 * planes * part * layout.lowest_bit_first  # otherwise the file's bytes are used in place
    stored = min(number * most_stored(layout, shape), max(file_bytes, GROUP_BYTES))
    unpacked = max(part, min(GROUP_BYTES, number * part))
    image = unpacked * 4 // 3 if channels_of(layout, shape) == 3 else unpacked  # Pillow stores 3 channels in 4 bytes
    arrays = max(planes * part, unpacked)
    if number > planes:
        arrays += arrays  # the previous strips or tiles are freed only after these have been decompressed
    return _STORED_COPIES * stored + image + arrays + _more_than_array(layout, image, part)


def _more_than_array(layout: Layout, image: int, part: int) -> int:
    """The memory that libtiff takes while decompressing a part, beyond the array that replaces it afterwards: it has a
    buffer of that size, and its decoders keep earlier data."""
    match layout.compression:
        case Compression.JPEG:
            return (image - part) + 2 * part  # a buffer for the image's bytes; a progressive file's coefficients
        case Compression.LZMA:
            return part
        case Compression.ZSTD:
            return min(part, _ZSTD_WINDOW_BYTES)
        case _:
            return 0
