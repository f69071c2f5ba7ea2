"""Cuts images as GOT-OCR 2's image processor does: the canvas of tiles whose aspect ratio is nearest, without padding.

InternVL and Aya Vision cut so. The image is squashed to fill the canvas; one tile alone is the thumbnail.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import GotOcr2ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    get_all_supported_aspect_ratios,
    get_optimal_tiled_canvas,
)

from visionsplit.families.base import Cutting
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.sample_levels import levels_of
from visionsplit.families.tiler import Tiler, channels_first, write_crops
from visionsplit.grid import TileGrid, UnpadRule
from visionsplit.model.stored_model import CheckpointError

# Settings of the image processor that change what the vision tower sees.
_SETTINGS = (
    *("do_convert_rgb", "do_normalize", "do_rescale", "do_resize", "image_mean", "image_std", "max_patches"),
    *("min_patches", "resample", "rescale_factor", "size"),
)


class TiledCanvasCutting(Cutting):
    """As many crops as the image processor allows, in the arrangement whose aspect ratio is nearest to the image's."""

    def __init__(self, processor: GotOcr2ImageProcessorPil, *, tile_pixels: int, cell_pixels: int, block: int) -> None:
        """`cell_pixels` is the side of a cell, of `block` patches along each side."""
        self.tile_pixels = tile_pixels
        self.patch_pixels = cell_pixels // block
        self.side = tile_pixels // cell_pixels
        self._limits = processor.min_patches, processor.max_patches  # crops

    @property
    def grids(self) -> list[tuple[int, int]]:
        shapes = get_all_supported_aspect_ratios(*self._limits)
        return [(0, 0) if rows * columns == 1 else (rows, columns) for columns, rows in shapes]

    def grid_of(self, height: int, width: int, *, rule: UnpadRule, alone: bool = True) -> TileGrid:
        tile = (self.tile_pixels, self.tile_pixels)
        columns, rows = get_optimal_tiled_canvas((height, width), tile, *self._limits)
        if rows * columns == 1:
            rows, columns = 0, 0
        return TileGrid.squashed(height, width, rows=rows, columns=columns, side=self.side)


class TiledCanvasTiler(Tiler):
    """Resizes the image to the canvas and to the thumbnail."""

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
        tiles = np.empty((grid.num_tiles, 3, tile, tile), np.uint8)
        tiles[0] = channels_first(image.resize((tile, tile), self._resample))
        if grid.num_crops:
            canvas = image.resize((grid.columns * tile, grid.rows * tile), self._resample)
            write_crops(np.asarray(canvas), tiles[1:])
        return tiles


def load_processor(source: str, revision: str | None, tile_pixels: int) -> GotOcr2ImageProcessorPil:
    """A checkpoint's image processor, told to cut as the checkpoint's whole processor tells it.

    Raises:
        CheckpointError: its tile size differs from the vision tower's.
        Exception: it is missing or damaged.
    """
    processor = GotOcr2ImageProcessorPil.from_pretrained(source, revision=revision, crop_to_patches=True)
    if (processor.size.height, processor.size.width) != (tile_pixels, tile_pixels):
        raise CheckpointError(
            f"the image processor makes tiles of {processor.size.height} x {processor.size.width} pixels; "
            f"the vision tower takes {tile_pixels} x {tile_pixels}"
        )
    return processor


def processor_settings(processor: GotOcr2ImageProcessorPil) -> Mapping[str, Any]:
    """The settings that change what the vision tower sees."""
    values = processor.to_dict()
    return {name: values.get(name) for name in _SETTINGS}


def processor_levels(processor: GotOcr2ImageProcessorPil) -> torch.Tensor:
    """What the image processor makes of each 8-bit value; see `levels_of`."""
    return levels_of(processor, crop_to_patches=False)
