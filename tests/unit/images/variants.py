"""Helpers of the lists of image variants."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Variant:
    """A file, and what it shows by someone else's reading."""

    name: str
    data: bytes
    shown: Any  # [height, width, 3], 0..255, not rounded
    tolerance: float = 1.01  # of a value: half a step for each rounding
    refused: str | None = None  # what the refusal says, where the file is not read


def samples(height, width, count, bits, seed=0):
    """Smooth samples that reach from 0 to all bits set, [height, width, count]."""
    rows, columns, which = np.meshgrid(np.arange(height), np.arange(width), np.arange(count), indexing="ij")
    waves = np.sin(rows / 7 + which * 2 + seed) + np.cos(columns / 9 - which + seed)
    values = (waves - waves.min()) / (waves.max() - waves.min())
    return np.round(values * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


def over_white(colours, alpha):
    """Colours 0..255 with alpha 0..1, on white."""
    return colours * alpha + 255 * (1 - alpha)


def grey(values):
    """[height, width, 1] as colours."""
    return np.repeat(values, 3, axis=2)
