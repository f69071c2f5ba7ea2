"""Cuts an RGB image into a thumbnail and crops, normalised by Hugging Face's image processor.

The processor converts the whole image to arrays before it resizes, which takes several times the image's memory. So
Pillow resizes here, with the processor's own algorithm, and the processor receives images of their final sizes, which
it does not resize. The tiles are bit-identical to the processor's own.
"""

from dataclasses import dataclass

import numpy as np
import torch
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

    pixels: torch.Tensor  # [T, 3, H, W] float32, CPU
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
            pixels = self._pixels(image, (grid_height, grid_width))  # [T, 3, H, W]
        except (ValueError, MemoryError) as error:
            raise InvalidImageError(f"an image of {width} x {height} pixels cannot be cut into tiles") from error
        expected = (grid.num_tiles, 3, self.tile_pixels, self.tile_pixels)
        if tuple(pixels.shape) != expected:
            raise InvalidImageError(
                f"an image of {width} x {height} pixels was cut into tiles of shape {list(pixels.shape)}, "
                f"not {list(expected)}"
            )
        return Tiles(pixels.to(torch.float32), grid)

    def _pixels(self, image: Image.Image, canvas: tuple[int, int]) -> torch.Tensor:
        """Resize and normalise, [T, 3, H, W], thumbnail first; `canvas` is (height, width) of all crops together."""
        resample = Image.Resampling(self._processor.resample)
        size = self._processor.size
        edge = size.shortest_edge
        thumbnail = image.resize((edge, edge) if edge else (size.width, size.height), resample)
        shape = np.broadcast_to(np.uint8(0), (3, image.height, image.width))  # of the image, without its pixels
        height, width = get_patch_output_size(shape, canvas, ChannelDimension.FIRST)
        fitted = image.resize((width, height), resample)
        parts = [
            self._processor(part, image_grid_pinpoints=[list(pinpoint)], return_tensors="pt")["pixel_values"][0]
            for part, pinpoint in ((thumbnail, (self.tile_pixels, self.tile_pixels)), (fitted, canvas))
        ]
        return torch.cat([parts[0][:1], parts[1][1:]])
