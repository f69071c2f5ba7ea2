"""The configuration of SmolVLM and Idefics3, their image processors, and how they cut images."""

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, TypeAlias

from transformers import Idefics3Config, Idefics3ImageProcessorPil, SmolVLMConfig, SmolVLMImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import get_resize_output_image_size

from visionsplit.families.base import Cutting, Settings
from visionsplit.grid import TileGrid, UnpadRule
from visionsplit.model.stored_model import CheckpointError

ImageProcessor: TypeAlias = Idefics3ImageProcessorPil | SmolVLMImageProcessorPil

# Settings of the image processor that change what the vision tower sees.
_SETTINGS = (
    *("do_convert_rgb", "do_image_splitting", "do_normalize", "do_rescale", "do_resize", "image_mean", "image_std"),
    *("max_image_size", "resample", "rescale_factor", "size"),
)


class SmolVlmSettings(Settings):
    """A SmolVLM or Idefics3 checkpoint's configuration."""

    config: SmolVLMConfig | Idefics3Config

    def __init__(self, fields: Mapping[str, Any]) -> None:
        """
        Raises:
            CheckpointError: tiles are not square, or cells are not whole blocks of patches.
        """
        self.is_idefics3 = fields.get("model_type") == "idefics3"
        self.config = (Idefics3Config if self.is_idefics3 else SmolVLMConfig).from_dict(dict(fields))
        vision = self.config.vision_config
        self.tile_pixels, self.patch_pixels = _side(vision.image_size), _side(vision.patch_size)
        self.block = self.config.scale_factor
        if (self.tile_pixels // self.patch_pixels) % self.block:
            raise CheckpointError(
                f"image_size is {self.tile_pixels}, patch_size {self.patch_pixels} and scale_factor {self.block}; "
                "tiles of whole cells are needed"
            )
        self.choose_connector_side(vision.hidden_size * self.block**2, self.config.text_config.hidden_size)

    @property
    def image_token_id(self) -> int:
        return int(self.config.image_token_id)

    def image_processor(self, source: str, revision: str | None) -> ImageProcessor:
        kind = Idefics3ImageProcessorPil if self.is_idefics3 else SmolVLMImageProcessorPil
        processor: ImageProcessor = kind.from_pretrained(source, revision=revision)
        if (found := processor.max_image_size["longest_edge"]) != self.tile_pixels:
            raise CheckpointError(
                f"the image processor makes tiles of {found} pixels; the vision tower takes {self.tile_pixels}"
            )
        if not (processor.do_resize and processor.size.longest_edge):
            raise CheckpointError("the image processor does not resize images to a longest edge")
        return processor

    def cutting(self, processor: ImageProcessor) -> Cutting:
        return LongestEdgeCutting(
            processor,
            tile_pixels=self.tile_pixels,
            patch_pixels=self.patch_pixels,
            side=self.tile_pixels // self.patch_pixels // self.block,
        )

    def connector_name(self, name: str) -> str:
        return f"multi_modal_projector.modality_projection.proj.{name}"

    def fingerprint(self, processor: ImageProcessor) -> Mapping[str, Any]:
        values = processor.to_dict()
        return {
            **{name: values.get(name) for name in _SETTINGS},
            "block": self.block,
            **self.connector_facts,
        }


class LongestEdgeCutting(Cutting):
    """The longest edge is always scaled to a number of tiles, up as well as down; both edges end at whole tiles."""

    def __init__(self, processor: ImageProcessor, *, tile_pixels: int, patch_pixels: int, side: int) -> None:
        self.tile_pixels = tile_pixels
        self.patch_pixels = patch_pixels
        self.side = side
        self.longest_edge: int = processor.size.longest_edge
        self._splits: bool = processor.do_image_splitting

    @property
    def grids(self) -> list[tuple[int, int]]:
        most = self._tiles(max(self.resized(self.longest_edge, self.longest_edge)))
        if most == 1 or not self._splits:
            return [(0, 0)]
        short = range(1, most + 1)
        return list(dict.fromkeys([*((most, columns) for columns in short), *((rows, most) for rows in short)]))

    def grid_of(self, height: int, width: int, *, rule: UnpadRule, alone: bool = True) -> TileGrid:
        rows, columns = (edge // self.tile_pixels for edge in self.canvas(*self.resized(height, width)))
        if rows * columns == 1 or not self._splits:
            rows, columns = 0, 0
        return TileGrid.squashed(height, width, rows=rows, columns=columns, side=self.side)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels to which an image is resized first."""
        image = SimpleNamespace(shape=(3, height, width))  # the library's function reads no more of an image
        resized: tuple[int, int] = get_resize_output_image_size(image, self.longest_edge)
        return resized

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels of all crops together, for an image that has been resized."""
        ratio, tile = width / height, self.tile_pixels
        if width >= height:
            width = self._tiles(width) * tile
            return self._tiles(int(width / ratio)) * tile, width
        height = self._tiles(height) * tile
        return height, self._tiles(int(height * ratio)) * tile

    def _tiles(self, edge: int) -> int:
        return math.ceil(edge / self.tile_pixels)


def _side(size: int | list[int] | tuple[int, int]) -> int:
    if isinstance(size, int):
        return size
    height, width = size
    if height != width:
        raise CheckpointError(f"the vision tower has tiles or patches of {height} x {width} pixels; squares are needed")
    return height
