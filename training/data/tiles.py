"""Cuts an image like Hugging Face's image processor, but keeps 8-bit pixels and reports where the image lies.

The processor itself would normalise to float32, four times the bytes, on the processor cores that also draw the scenes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.image_utils import ChannelDimension
from visionsplit.grid import TileGrid

from training.model.checkpoint import Architecture, pinpoints


@dataclass(frozen=True)
class CutImage:
    """Tiles, thumbnail first, with the image's size and offset on the canvas."""

    tiles: NDArray[np.uint8]  # [T, 3, H, W]
    grid: TileGrid
    fitted: tuple[int, int]  # width and height in pixels of the image on the canvas
    offset: tuple[int, int]  # left and top of the image on the canvas, pixels


def best_grid(width: int, height: int, architecture: Architecture) -> tuple[int, int]:
    """The rows and columns of crops for an image of this size."""
    canvas_height, canvas_width = select_best_resolution((height, width), pinpoints(architecture))
    return canvas_height // architecture.tile, canvas_width // architecture.tile


def cut(image: Image.Image, architecture: Architecture) -> CutImage:
    """Fit an RGB image to its canvas, pad it with black, and cut canvas and thumbnail."""
    tile = architecture.tile
    rows, columns = best_grid(image.width, image.height, architecture)
    grid = TileGrid.padded(image.height, image.width, rows=rows, columns=columns, side=architecture.side)
    height, width = get_patch_output_size(np.asarray(image), (rows * tile, columns * tile), ChannelDimension.LAST)
    left, top = (columns * tile - width) // 2, (rows * tile - height) // 2
    canvas = np.zeros((rows * tile, columns * tile, 3), np.uint8)
    canvas[top : top + height, left : left + width] = np.asarray(_resize(image, width, height))
    crops = canvas.reshape(rows, tile, columns, tile, 3).transpose(0, 2, 4, 1, 3)  # [rows, columns, 3, H, W]
    thumbnail = np.asarray(_resize(image, tile, tile)).transpose(2, 0, 1)
    tiles = np.concatenate([thumbnail[None], crops.reshape(-1, 3, tile, tile)])
    return CutImage(tiles, grid, (width, height), (left, top))


def _resize(image: Image.Image, width: int, height: int) -> Image.Image:
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)
