"""Cuts an image into a thumbnail and crops as LLaVA-NeXT's image processor does."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers.image_processing_utils import get_patch_output_size
from transformers.image_utils import ChannelDimension

from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.tiler import Tiler, channels_first, write_crops
from visionsplit.grid import TileGrid


class LlavaNextTiler(Tiler):
    """Resizes the image to fit the canvas, and pads it with black on two opposite sides."""

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
        canvas = grid.rows * tile, grid.columns * tile  # height and width
        tiles = np.empty((grid.num_tiles, 3, tile, tile), np.uint8)
        tiles[0] = channels_first(image.resize((tile, tile), self._resample))
        shape = np.broadcast_to(np.uint8(0), (3, image.height, image.width))  # of the image, without its pixels
        height, width = get_patch_output_size(shape, canvas, ChannelDimension.FIRST)
        top, left = (canvas[0] - height) // 2, (canvas[1] - width) // 2
        padded = np.zeros((*canvas, 3), np.uint8)
        padded[top : top + height, left : left + width] = np.asarray(image.resize((width, height), self._resample))
        write_crops(padded, tiles[1:])
        return tiles
