"""Cuts an image as LLaVA-OneVision's image processor does."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.llava_next.tiler import LlavaNextTiler
from visionsplit.families.tiler import channels_first
from visionsplit.grid import TileGrid


class LlavaOnevisionTiler(LlavaNextTiler):
    """Cuts as LLaVA-NeXT's, but pads an image without crops to a square of the mean colour."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """
        Raises:
            CheckpointError: the checkpoint has no image processor, or one that does not fit its vision tower.
        """
        super().__init__(checkpoint)
        mean = checkpoint.image_processor().image_mean
        self._background = tuple(int(value * 255) for value in mean)

    def _pixels(self, image: Image.Image, grid: TileGrid) -> NDArray[np.uint8]:
        if grid.num_crops:
            return super()._pixels(image, grid)
        longest, tile = max(image.size), self.cutting.tile_pixels
        square = Image.new("RGB", (longest, longest), self._background)
        square.paste(image, ((longest - image.width) // 2, (longest - image.height) // 2))
        tiles = np.empty((1, 3, tile, tile), np.uint8)
        tiles[0] = channels_first(square.resize((tile, tile), self._resample))
        return tiles
