"""Cuts an RGB image into a thumbnail and crops of 8-bit samples, as Hugging Face's image processor does.

The processor converts the whole image to arrays of floats before it resizes, which takes several times the image's
memory, and resizes and normalises a second thumbnail. So Pillow resizes here, with the processor's own algorithm, and
the vision tower normalises on its device (`encoder_service/device/sample_levels.py`). The pixels are bit-identical to
the processor's.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import LlavaNextImageProcessorPil
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.image_utils import ChannelDimension
from visionsplit.errors import InvalidImageError
from visionsplit.grid import TileGrid, UnpadRule
from visionsplit.model.checkpoint import Checkpoint


@dataclass(frozen=True)
class Tiles:
    """One image's tiles, thumbnail first."""

    pixels: torch.Tensor  # [T, 3, H, W] uint8, CPU
    grid: TileGrid


class Tiler:
    """Cuts images in the way the checkpoint was trained on. Safe to use from several threads."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """
        Raises:
            CheckpointError: the checkpoint has no image processor, or one that does not fit its vision tower.
        """
        self._processor: LlavaNextImageProcessorPil = checkpoint.image_processor()
        vision = checkpoint.config.vision_config
        self.tile_pixels: int = vision.image_size
        self.patch_pixels: int = vision.patch_size
        self.side = self.tile_pixels // self.patch_pixels
        self._pinpoints: list[list[int]] = [list(point) for point in self._processor.image_grid_pinpoints]

    @property
    def grids(self) -> list[tuple[int, int]]:
        """The possible arrangements of crops, as (rows, columns)."""
        return [(height // self.tile_pixels, width // self.tile_pixels) for height, width in self._pinpoints]

    @property
    def max_tiles(self) -> int:
        """The largest number of tiles that an image of any size is cut into."""
        return 1 + max(rows * columns for rows, columns in self.grids)

    def most_tiles(self, width: int, height: int) -> int:
        """The largest number of tiles for an image of this size, upright or rotated by 90 degrees."""
        canvases = [select_best_resolution(size, self._pinpoints) for size in ((height, width), (width, height))]
        area: int = max(canvas_height * canvas_width for canvas_height, canvas_width in canvases)
        return 1 + area // self.tile_pixels**2

    def cut(self, image: Image.Image, rule: UnpadRule) -> Tiles:
        """Cut an RGB image; `rule` decides where its padding ends.

        Raises:
            InvalidImageError: the image processor cannot cut an image of this shape.
        """
        height, width = image.height, image.width
        grid_height, grid_width = select_best_resolution((height, width), self._pinpoints)
        grid = TileGrid.for_image(
            height,
            width,
            rows=grid_height // self.tile_pixels,
            columns=grid_width // self.tile_pixels,
            side=self.side,
            rule=rule,
        )
        try:
            pixels = self._pixels(image, (grid_height, grid_width))
        except (ValueError, MemoryError) as error:
            raise InvalidImageError(f"an image of {width} x {height} pixels cannot be cut into tiles") from error
        return Tiles(torch.from_numpy(pixels), grid)

    def _pixels(self, image: Image.Image, canvas: tuple[int, int]) -> NDArray[np.uint8]:
        """Resize and cut, [T, 3, H, W], thumbnail first; `canvas` is (height, width) of all crops together."""
        tile, resample = self.tile_pixels, Image.Resampling(self._processor.resample)
        rows, columns = canvas[0] // tile, canvas[1] // tile
        tiles = np.empty((1 + rows * columns, 3, tile, tile), np.uint8)
        tiles[0] = np.asarray(image.resize((tile, tile), resample)).transpose(2, 0, 1)
        shape = np.broadcast_to(np.uint8(0), (3, image.height, image.width))  # of the image, without its pixels
        height, width = get_patch_output_size(shape, canvas, ChannelDimension.FIRST)
        top, left = (canvas[0] - height) // 2, (canvas[1] - width) // 2
        padded = np.zeros((*canvas, 3), np.uint8)
        padded[top : top + height, left : left + width] = np.asarray(image.resize((width, height), resample))
        crops = padded.reshape(rows, tile, columns, tile, 3).transpose(0, 2, 4, 1, 3)  # [rows, columns, 3, H, W]
        tiles[1:].reshape(rows, columns, 3, tile, tile)[:] = crops
        return tiles
