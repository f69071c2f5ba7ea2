"""How large an image may be, in pixels."""

from dataclasses import dataclass

from visionsplit.errors import InvalidImageError


@dataclass(frozen=True)
class ImageLimits:
    """Limits on the size of images that are decoded."""

    max_pixels: int = 64_000_000
    max_side: int = 65_535  # resizing takes memory per row and per column, however few pixels they have


UNLIMITED = ImageLimits(max_pixels=2**62, max_side=2**31)  # for images that the caller already holds in memory


def checked_size(size: tuple[int, int], limits: ImageLimits) -> tuple[int, int]:
    """Return the size if it is within the limits.

    Raises:
        InvalidImageError: there are no pixels, or more than `limits` allow.
    """
    width, height = size
    if width < 1 or height < 1:
        raise InvalidImageError(f"the image has {width} x {height} pixels")
    if width * height > limits.max_pixels:
        raise InvalidImageError(
            f"the image has {width} x {height} pixels, more than the {limits.max_pixels} accepted here"
        )
    if max(size) > limits.max_side:
        raise InvalidImageError(
            f"the image has {width} x {height} pixels; a side of more than {limits.max_side} is not supported"
        )
    return size
