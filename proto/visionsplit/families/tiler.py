"""Cuts an RGB image into tiles of 8-bit samples, as the checkpoint's image processor does.

A processor converts the whole image to arrays of floats before it resizes, which takes several times the image's
memory, and normalises on the CPU. So Pillow resizes here, with the processor's own algorithm, and the vision tower
normalises on its device (`sample_levels.py`). The pixels are bit-identical to the processor's.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from visionsplit.errors import InvalidImageError
from visionsplit.families.base import Cutting
from visionsplit.grid import TileGrid, UnpadRule


@dataclass(frozen=True)
class Tiles:
    """One image's tiles, thumbnail first."""

    pixels: torch.Tensor  # [T, 3, H, W] uint8, CPU
    grid: TileGrid


class Tiler(ABC):
    """Cuts images in the way the checkpoint was trained on. Safe to use from several threads."""

    def __init__(self, cutting: Cutting) -> None:
        self.cutting = cutting

    def cut(self, image: Image.Image, rule: UnpadRule, *, alone: bool = True) -> Tiles:
        """Cut an RGB image; see `Cutting.grid_of` for the arguments.

        Raises:
            InvalidImageError: the image processor cannot cut an image of this shape.
        """
        grid = self.cutting.grid_of(image.height, image.width, rule=rule, alone=alone)
        try:
            pixels = self._pixels(image, grid)
        except (ValueError, MemoryError) as error:
            raise InvalidImageError(
                f"an image of {image.width} x {image.height} pixels cannot be cut into tiles"
            ) from error
        return Tiles(torch.from_numpy(pixels), grid)

    @abstractmethod
    def _pixels(self, image: Image.Image, grid: TileGrid) -> NDArray[np.uint8]:
        """Resize and cut, [T, 3, H, W], thumbnail first."""


def channels_first(image: Image.Image) -> NDArray[np.uint8]:
    """An RGB image's samples, [3, H, W]."""
    return np.asarray(image).transpose(2, 0, 1)


def write_crops(canvas: NDArray[np.uint8], tiles: NDArray[np.uint8]) -> None:
    """Cut a canvas [rows * tile, columns * tile, 3] into `tiles` [rows * columns, 3, tile, tile], row-major."""
    tile = tiles.shape[-1]
    rows, columns = canvas.shape[0] // tile, canvas.shape[1] // tile
    crops = canvas.reshape(rows, tile, columns, tile, 3).transpose(0, 2, 4, 1, 3)  # [rows, columns, 3, tile, tile]
    tiles.reshape(rows, columns, 3, tile, tile)[:] = crops
