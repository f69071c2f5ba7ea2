"""Cuts an image as the image processors of SmolVLM and Idefics3 do."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.smolvlm.settings import LongestEdgeCutting
from visionsplit.families.tiler import Tiler, channels_first, write_crops
from visionsplit.grid import TileGrid


class SmolVlmTiler(Tiler):
    """Resizes three times, each time what came out before: to the longest edge, to whole tiles, to the thumbnail."""

    cutting: LongestEdgeCutting

    def __init__(self, checkpoint: Checkpoint) -> None:
        """
        Raises:
            CheckpointError: the checkpoint has no image processor, or one that does not fit its vision tower.
        """
        processor = checkpoint.image_processor()
        super().__init__(checkpoint.settings.cutting(processor))
        self._resample = Image.Resampling(processor.resample)

    def _pixels(self, image: Image.Image, grid: TileGrid) -> NDArray[np.uint8]:
        tile = self.cutting.tile_pixels
        height, width = self.cutting.resized(image.height, image.width)
        resized = image.resize((width, height), self._resample)
        tiles = np.empty((grid.num_tiles, 3, tile, tile), np.uint8)
        if grid.num_crops:
            resized = resized.resize((grid.columns * tile, grid.rows * tile), self._resample)
            write_crops(np.asarray(resized), tiles[1:])
        tiles[0] = channels_first(resized.resize((tile, tile), self._resample))
        return tiles
