"""Cuts images as LLaVA-NeXT's image processor does: to the best canvas of a list, with padding on two opposite sides.

LLaVA-NeXT and LLaVA-OneVision cut so.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers import LlavaNextConfig, LlavaNextImageProcessorPil, LlavaOnevisionConfig
from transformers import LlavaOnevisionImageProcessorPil as LlavaOnevisionProcessor
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.image_utils import ChannelDimension

from visionsplit.families.base import Cutting
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.tiler import Tiler, channels_first, write_crops
from visionsplit.grid import TileGrid, UnpadRule
from visionsplit.model.stored_model import CheckpointError


class PaddedCanvasCutting(Cutting):
    """The canvas among a list that shows most of the image; the image is padded to it, and the padding left out."""

    def __init__(self, pinpoints: list[list[int]], tile_pixels: int, patch_pixels: int) -> None:
        """`pinpoints` are the canvases' heights and widths in pixels."""
        self.pinpoints = [list(point) for point in pinpoints]
        self.tile_pixels = tile_pixels
        self.patch_pixels = patch_pixels
        self.side = tile_pixels // patch_pixels

    @property
    def grids(self) -> list[tuple[int, int]]:
        return [(height // self.tile_pixels, width // self.tile_pixels) for height, width in self.pinpoints]

    def grid_of(self, height: int, width: int, *, rule: UnpadRule, alone: bool = True) -> TileGrid:
        canvas_height, canvas_width = select_best_resolution((height, width), self.pinpoints)
        rows, columns = canvas_height // self.tile_pixels, canvas_width // self.tile_pixels
        return TileGrid.padded(height, width, rows=rows, columns=columns, side=self.side, rule=rule)

    def _possible(self, grid: TileGrid) -> list[TileGrid]:
        # Any of the checkpoint's canvases is accepted, so that other choices among them can be studied.
        shape = {"rows": grid.rows, "columns": grid.columns, "side": grid.side}
        return [TileGrid.padded(grid.image_height, grid.image_width, rule=rule, **shape) for rule in UnpadRule]


class PaddedCanvasTiler(Tiler):
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


def check_pinpoints(
    processor: LlavaNextImageProcessorPil | LlavaOnevisionProcessor,
    config: LlavaNextConfig | LlavaOnevisionConfig,
    tile: int,
) -> None:
    """Check the canvases that the image processor chooses from.

    Raises:
        CheckpointError: they differ from the model's, or are not whole tiles of `tile` pixels.
    """
    pinpoints = [list(point) for point in processor.image_grid_pinpoints]
    if pinpoints != [list(point) for point in config.image_grid_pinpoints]:
        raise CheckpointError("the image processor's image_grid_pinpoints differ from the model's")
    for height, width in pinpoints:
        if height % tile or width % tile:
            raise CheckpointError(f"grid pinpoint {height} x {width} is not whole tiles of {tile}")
