"""An RGB image to tiles: the thumbnail and the crops, cut and normalised by Hugging Face's image processor.

The processor turns the whole image into arrays before it makes it smaller, which takes several times the image's
memory. So Pillow resizes here, just as the processor would, and the processor gets images of their final sizes, which
it leaves as they are. The tiles are the same to the bit.
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
    """Cuts images the way the checkpoint was trained on. Safe to use from several threads."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """
        Raises:
            CheckpointError: the checkpoint has no image processor that fits its vision tower.
        """
        self._processor: LlavaNextImageProcessorPil = checkpoint.image_processor()
        vision = checkpoint.config.vision_config
        self.tile_pixels: int = vision.image_size
        self.patch_pixels: int = vision.patch_size
        self.side = self.tile_pixels // self.patch_pixels
        self._pinpoints: list[list[int]] = [list(point) for point in self._processor.image_grid_pinpoints]

    @property
    def grids(self) -> list[tuple[int, int]]:
        """Rows and columns of crops that an image can be cut into."""
        return [(height // self.tile_pixels, width // self.tile_pixels) for height, width in self._pinpoints]

    @property
    def max_tiles(self) -> int:
        """How many tiles an image makes at most, whatever its size."""
        return 1 + max(rows * columns for rows, columns in self.grids)

    def most_tiles(self, width: int, height: int) -> int:
        """How many tiles an image of this size makes at most, upright or on its side."""
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
        """[T, 3, H, W], thumbnail first. `canvas`: the height and width that the crops fill together."""
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
