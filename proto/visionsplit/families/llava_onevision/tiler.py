"""Cuts an image as LLaVA-OneVision's image processor does."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.padded_canvas import PaddedCanvasTiler
from visionsplit.families.tiler import channels_first
from visionsplit.grid import TileGrid

_BAND = 256  # rows of an image that are padded at one time


class LlavaOnevisionTiler(PaddedCanvasTiler):
    """Cuts as for LLaVA-NeXT, but pads an image without crops to a square of the mean colour."""

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
        tile = self.cutting.tile_pixels
        tiles = np.empty((1, 3, tile, tile), np.uint8)
        tiles[0] = channels_first(self._squared(image))
        return tiles

    def _squared(self, image: Image.Image) -> Image.Image:
        """The image padded to a square and resized to a tile.

        The square of a long strip would take gigabytes. Pillow resizes all rows and then all columns, so the rows are
        padded and resized in bands, which gives the same samples.
        """
        longest, tile = max(image.size), self.cutting.tile_pixels
        left, top = (longest - image.width) // 2, (longest - image.height) // 2
        narrow = Image.new("RGB", (tile, longest), self._background)
        for start in range(0, image.height, _BAND):
            band = image.crop((0, start, image.width, min(start + _BAND, image.height)))
            padded = Image.new("RGB", (longest, band.height), self._background)
            padded.paste(band, (left, 0))
            narrow.paste(padded.resize((tile, band.height), self._resample), (0, top + start))
        return narrow.resize((tile, tile), self._resample)
