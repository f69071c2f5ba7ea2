"""LLaVA-OneVision's configuration, its image processor, and how it cuts images."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from transformers import LlavaOnevisionConfig, LlavaOnevisionImageProcessorPil

from visionsplit.families.base import Cutting, Settings
from visionsplit.families.padded_canvas import PaddedCanvasCutting, check_pinpoints
from visionsplit.families.siglip import siglip_layers
from visionsplit.grid import Region, TileGrid, UnpadRule
from visionsplit.model.stored_model import CheckpointError

# Settings of the image processor that change what the vision tower sees.
_SETTINGS = (
    *("do_convert_rgb", "do_normalize", "do_pad", "do_rescale", "do_resize", "image_grid_pinpoints", "image_mean"),
    *("image_std", "resample", "rescale_factor", "size"),
)
_LEAST_RATIO = 1.1  # a canvas that is smaller than this times the limit is not pooled


class LlavaOnevisionSettings(Settings):
    """A LLaVA-OneVision checkpoint's configuration."""

    config: LlavaOnevisionConfig

    def __init__(self, fields: Mapping[str, Any]) -> None:
        """
        Raises:
            CheckpointError: the vision tower or its features are others, or the limit of the canvas is not given.
        """
        self.config = LlavaOnevisionConfig.from_dict(dict(fields))
        self.num_layers = siglip_layers(self.config)
        limit = self.config.vision_aspect_ratio.removeprefix("anyres_max_")
        if not limit.isdigit():
            raise CheckpointError(
                f"vision_aspect_ratio is {self.config.vision_aspect_ratio!r}; 'anyres_max_' and a number is needed"
            )
        self.unpooled_tiles = int(limit)  # a canvas of more cells than so many tiles have is pooled
        self.text_size: int = self.config.text_config.hidden_size
        self.choose_connector_side(self.config.vision_config.hidden_size, self.text_size)
        # Pooling comes behind the connector, so for large images the encoder runs it in any case.
        self.encoder_tensors = ("vision_tower.", "multi_modal_projector.")

    @property
    def image_token_id(self) -> int:
        return int(self.config.image_token_id)

    def width(self, grid: TileGrid) -> int:
        return self.text_size if is_pooled(grid) else self.feature_size

    def image_processor(self, source: str, revision: str | None) -> LlavaOnevisionImageProcessorPil:
        processor = LlavaOnevisionImageProcessorPil.from_pretrained(source, revision=revision)
        tile = self.config.vision_config.image_size
        if (processor.size.height, processor.size.width) != (tile, tile):
            raise CheckpointError(
                f"the image processor makes tiles of {processor.size.height} x {processor.size.width} pixels; "
                f"the vision tower takes {tile} x {tile}"
            )
        check_pinpoints(processor, self.config, tile)
        return processor

    def cutting(self, processor: LlavaOnevisionImageProcessorPil) -> Cutting:
        vision = self.config.vision_config
        return PooledCutting(
            processor.image_grid_pinpoints, vision.image_size, vision.patch_size, unpooled_tiles=self.unpooled_tiles
        )

    def fingerprint(self, processor: LlavaOnevisionImageProcessorPil) -> Mapping[str, Any]:
        values = processor.to_dict()
        return {
            **{name: values.get(name) for name in _SETTINGS},
            "vision_feature_layer": self.config.vision_feature_layer,
            "vision_aspect_ratio": self.config.vision_aspect_ratio,
            **self.connector_facts,
        }


class PooledCutting(PaddedCanvasCutting):
    """Cuts as for LLaVA-NeXT, with a limit on the canvas; an image that is not alone in its prompt has no crops."""

    counts_images = True

    def __init__(self, pinpoints: list[list[int]], tile_pixels: int, patch_pixels: int, *, unpooled_tiles: int) -> None:
        super().__init__(pinpoints, tile_pixels, patch_pixels)
        self._max_cells = unpooled_tiles * self.side**2

    @property
    def grids(self) -> list[tuple[int, int]]:
        return [(0, 0), *super().grids]

    def grid_of(self, height: int, width: int, *, rule: UnpadRule, alone: bool = True) -> TileGrid:
        if not alone:
            return TileGrid.squashed(height, width, rows=0, columns=0, side=self.side)
        grid = super().grid_of(height, width, rule=UnpadRule.HUGGING_FACE)
        valid = grid.valid
        ratio = math.sqrt(valid.area / self._max_cells)
        if ratio <= _LEAST_RATIO:
            return grid
        pooled = Region(0, int(valid.height // ratio), 0, int(valid.width // ratio))
        return replace(
            grid,
            valid=pooled,
            row_bounds=_bounds(grid.rows, self.side, valid.top, valid.height, pooled.height),
            column_bounds=_bounds(grid.columns, self.side, valid.left, valid.width, pooled.width),
        )

    def _possible(self, grid: TileGrid) -> list[TileGrid]:
        size = (grid.image_height, grid.image_width)
        return [self.grid_of(*size, rule=UnpadRule.HUGGING_FACE, alone=alone) for alone in (True, False)]


def is_pooled(grid: TileGrid) -> bool:
    """Whether an image's canvas is pooled."""
    return bool(grid.row_bounds)


def _bounds(parts: int, side: int, start: int, length: int, pooled: int) -> tuple[int, ...]:
    """Where crops begin among the rows or columns of a pooled canvas, and the end of the last.

    A pooled row belongs to the crop in which its centre lies: row i covers length / pooled rows of the canvas from
    start + i * length / pooled on.
    """
    centres = [2 * pooled * start + (2 * i + 1) * length for i in range(pooled)]  # in units of 1 / (2 * pooled) row
    return *(sum(centre < 2 * pooled * side * part for centre in centres) for part in range(parts)), pooled
