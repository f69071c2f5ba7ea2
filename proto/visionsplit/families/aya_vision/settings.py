"""Aya Vision's configuration, and its image processor."""

from collections.abc import Mapping
from typing import Any

from transformers import AyaVisionConfig, GotOcr2ImageProcessorPil

from visionsplit.families.base import Cutting, Settings
from visionsplit.families.siglip import siglip_layers
from visionsplit.families.tiled_canvas import TiledCanvasCutting, load_processor, processor_settings
from visionsplit.model.stored_model import CheckpointError


class AyaVisionSettings(Settings):
    """An Aya Vision checkpoint's configuration."""

    config: AyaVisionConfig

    def __init__(self, fields: Mapping[str, Any]) -> None:
        """
        Raises:
            CheckpointError: the vision tower or its features are others, or cells are not whole blocks of patches.
        """
        self.config = AyaVisionConfig.from_dict(dict(fields))
        self.num_layers = siglip_layers(self.config)
        vision = self.config.vision_config
        self.block = self.config.downsample_factor
        if (vision.image_size // vision.patch_size) % self.block:
            raise CheckpointError(
                f"image_size is {vision.image_size}, patch_size {vision.patch_size} and downsample_factor "
                f"{self.block}; tiles of whole cells are needed"
            )
        self.choose_connector_side(vision.hidden_size * self.block**2, self.config.text_config.hidden_size)

    @property
    def image_token_id(self) -> int:
        return int(self.config.image_token_id)

    def image_processor(self, source: str, revision: str | None) -> GotOcr2ImageProcessorPil:
        return load_processor(source, revision, self.config.vision_config.image_size)

    def cutting(self, processor: GotOcr2ImageProcessorPil) -> Cutting:
        vision = self.config.vision_config
        return TiledCanvasCutting(
            processor,
            tile_pixels=vision.image_size,
            cell_pixels=vision.patch_size * self.block,
            block=self.block,
        )

    def fingerprint(self, processor: GotOcr2ImageProcessorPil) -> Mapping[str, Any]:
        return {
            **processor_settings(processor),
            "vision_feature_layer": self.config.vision_feature_layer,
            "block": self.block,
            **self.connector_facts,
        }
