"""Converts CIE L*a*b* colours to sRGB."""

import numpy as np

from visionsplit.images.scaling import Bytes, Samples

_WHITE_D50 = (0.96422, 1.0, 0.82521)
_EDGE = 6 / 29  # where the cube root in CIE's formula begins
# Linear sRGB from XYZ under D50, adapted to D65 by Bradford's method.
_TO_LINEAR = np.array(
    [
        (3.1338561, -1.6168667, -0.4906146),
        (-0.9787684, 1.9161415, 0.0334540),
        (0.0719453, -0.2289914, 1.4052427),
    ]
)


def lab_to_rgb(lightness: Samples, tints: Samples) -> Bytes:
    """Convert colours under D50, as in TIFF and ICC files, to sRGB, [height, width, 3].

    Args:
        lightness: L* from 0 to 100, [height, width].
        tints: a* and b*, [height, width, 2].
    """
    y = (lightness + 16) / 116
    roots = np.stack([y + tints[:, :, 0] / 500, y, y - tints[:, :, 1] / 200], axis=2)
    xyz = np.where(roots > _EDGE, roots**3, 3 * _EDGE**2 * (roots - 4 / 29)) * _WHITE_D50
    linear = (xyz @ _TO_LINEAR.T).clip(0, 1)
    encoded: Samples = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * encoded).astype(np.uint8)
