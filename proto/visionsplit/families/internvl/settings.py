"""InternVL's configuration, and its image processor."""

from collections.abc import Mapping
from typing import Any

from transformers import GotOcr2ImageProcessorPil, InternVLConfig

from visionsplit.families.base import Cutting, Settings
from visionsplit.families.tiled_canvas import TiledCanvasCutting, load_processor, processor_settings
from visionsplit.model.stored_model import CheckpointError


class InternVLSettings(Settings):
    """An InternVL checkpoint's configuration."""

    config: InternVLConfig

    def __init__(self, fields: Mapping[str, Any]) -> None:
        """
        Raises:
            CheckpointError: the features are not those of the last layer without [CLS], tiles are not square, or cells
                are not whole blocks of patches.
        """
        self.config = InternVLConfig.from_dict(dict(fields))
        config, vision = self.config, self.config.vision_config
        if (config.vision_feature_layer, config.vision_feature_select_strategy) != (-1, "default"):
            raise CheckpointError(
                f"vision_feature_layer is {config.vision_feature_layer} and vision_feature_select_strategy "
                f"{config.vision_feature_select_strategy!r}; -1 and 'default' are needed"
            )
        if not vision.use_mean_pooling:
            raise CheckpointError("use_mean_pooling is false; the last layer has to put out the features")
        (self.tile_pixels, width), (self.patch_pixels, patch_width) = vision.image_size, vision.patch_size
        self.block = round(1 / config.downsample_ratio)
        patches = self.tile_pixels // self.patch_pixels
        if (self.tile_pixels, self.patch_pixels) != (width, patch_width) or patches % self.block:
            raise CheckpointError(
                f"image_size is {list(vision.image_size)}, patch_size {list(vision.patch_size)} and downsample_ratio "
                f"{config.downsample_ratio}; square tiles of whole cells are needed"
            )
        # One published configuration spells the id as other families do; the library then takes its own default.
        self._image_token_id = int(fields.get("image_token_id", fields.get("image_token_index", config.image_token_id)))
        self.choose_connector_side(vision.hidden_size * self.block**2, config.text_config.hidden_size)

    @property
    def image_token_id(self) -> int:
        return self._image_token_id

    def image_processor(self, source: str, revision: str | None) -> GotOcr2ImageProcessorPil:
        return load_processor(source, revision, self.tile_pixels)

    def cutting(self, processor: GotOcr2ImageProcessorPil) -> Cutting:
        return TiledCanvasCutting(
            processor,
            tile_pixels=self.tile_pixels,
            cell_pixels=self.patch_pixels * self.block,
            block=self.block,
        )

    def fingerprint(self, processor: GotOcr2ImageProcessorPil) -> Mapping[str, Any]:
        return {
            **processor_settings(processor),
            "block": self.block,
            **self.connector_facts,
        }
