"""Scales samples of any width and type to 8 bits."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from visionsplit.errors import InvalidImageError

Samples: TypeAlias = NDArray[Any]  # of any integer or floating type
Bytes: TypeAlias = NDArray[np.uint8]

_MIDDLE_GREY = 128
_TABLE_SIZE = 2**16


@dataclass(frozen=True)
class Scale:
    """The two sample values that become 0 and 255."""

    black: float
    white: float

    def to_bytes(self, samples: Samples) -> Bytes:
        """Each sample between the two, rounded to 8 bits; middle grey if the two are equal. Any shape."""
        if self == BYTE and samples.dtype == np.uint8:
            return samples
        if self.black == self.white:
            return np.full(samples.shape, _MIDDLE_GREY, np.uint8)
        if samples.dtype == np.uint16 and samples.size > _TABLE_SIZE:
            return self.to_bytes(np.arange(_TABLE_SIZE, dtype=np.uint16))[samples]
        # In double precision, since the difference of two floats may overflow a float.
        scaled = (samples.astype(np.float64) - self.black) * (255.0 / (self.white - self.black))
        return np.round(scaled).clip(0, 255).astype(np.uint8)


BYTE = Scale(0, 255)

# For `of_range`: the exclusive lower and inclusive upper bound of the largest value, and the resulting scale.
_INTEGER_RANGES = ((-1, 320, BYTE), (-1, 82_000, Scale(0, 65535)))
_FLOAT_RANGES = ((-1, 1.5, Scale(0, 1)), (16, 320, BYTE))
_UNDERSHOOT = 0.25  # how far below 0 resampling may reach, as a share of the largest value


def of_bits(bits: int) -> Scale:
    """The scale of unsigned integers: all bits set is white."""
    return Scale(0, 2**bits - 1)


def of_range(blocks: Iterable[Samples], *, stretched: bool = False) -> Scale:
    """The scale of samples whose type has no conventional white: signed or wide integers, and floats.

    The range of the image's values decides. Resampling writes values slightly beyond black and white, so the ranges
    are somewhat wider than the scale, and values beyond the scale are clipped:

        integers up to 320                 8-bit samples
        integers up to 82000               16-bit samples
        floats up to 1.5                   0 is black, 1 is white
        floats above 16, up to 320         8-bit samples
        anything else                      the smallest is black, the largest white; all equal, middle grey

    "Anything else" includes values below 0 by more than a quarter of the largest value.

    Args:
        blocks: the samples, in parts of one type.
        stretched: apply the last line, whatever the range is.

    Raises:
        InvalidImageError: a sample is NaN or infinite.
    """
    low, high, floating = np.inf, -np.inf, False
    for block in blocks:
        floating = block.dtype.kind == "f"
        if floating and not np.isfinite(block).all():
            raise InvalidImageError("the image has pixels that are NaN or infinite")
        low, high = min(low, float(block.min())), max(high, float(block.max()))
    if not stretched and low >= -high * _UNDERSHOOT:
        for above, most, scale in _FLOAT_RANGES if floating else _INTEGER_RANGES:
            if above < high <= most:
                return scale
    return Scale(low, high)
