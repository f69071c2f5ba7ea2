"""LLaVA-NeXT's configuration, its image processor, and how it cuts images."""

from collections.abc import Mapping
from typing import Any

from transformers import LlavaNextConfig, LlavaNextImageProcessorPil

from visionsplit.families.base import Cutting, Settings
from visionsplit.families.padded_canvas import PaddedCanvasCutting, check_pinpoints
from visionsplit.model.stored_model import CheckpointError

# Settings of the image processor that change what the vision tower sees.
_PROCESSOR_SETTINGS = (
    "crop_size",
    "do_center_crop",
    "do_convert_rgb",
    "do_normalize",
    "do_pad",
    "do_rescale",
    "do_resize",
    "image_grid_pinpoints",
    "image_mean",
    "image_std",
    "resample",
    "rescale_factor",
    "size",
)


class LlavaNextSettings(Settings):
    """A LLaVA-NeXT checkpoint's configuration."""

    config: LlavaNextConfig

    def __init__(self, fields: Mapping[str, Any]) -> None:
        """
        Raises:
            CheckpointError: the encoder cannot serve the vision half. Both services refuse such a checkpoint, so that
                neither starts alone.
        """
        self.config = LlavaNextConfig.from_dict(dict(fields))
        _check_vision_half(self.config)
        self.feature_size = self.config.vision_config.hidden_size * len(feature_layers(self.config))

    @property
    def image_token_id(self) -> int:
        return int(self.config.image_token_id)

    def image_processor(self, source: str, revision: str | None) -> LlavaNextImageProcessorPil:
        processor = LlavaNextImageProcessorPil.from_pretrained(source, revision=revision)
        _check_tiles(processor, self.config)
        return processor

    def cutting(self, processor: LlavaNextImageProcessorPil) -> Cutting:
        vision = self.config.vision_config
        return PaddedCanvasCutting(processor.image_grid_pinpoints, vision.image_size, vision.patch_size)

    def fingerprint(self, processor: LlavaNextImageProcessorPil) -> Mapping[str, Any]:
        values = processor.to_dict()
        return {
            **{name: values.get(name) for name in _PROCESSOR_SETTINGS},
            "vision_feature_layer": self.config.vision_feature_layer,
            "vision_feature_select_strategy": self.config.vision_feature_select_strategy,
        }


def feature_layers(config: LlavaNextConfig) -> tuple[int, ...]:
    """Indices of the vision tower's hidden states that form the features, in the checkpoint's order. Index 0 is the
    embeddings.

    Raises:
        CheckpointError: the vision tower does not have these layers.
    """
    given, num_layers = config.vision_feature_layer, config.vision_config.num_hidden_layers
    indices = [given] if isinstance(given, int) else list(given)
    if not indices or not all(-num_layers - 1 <= index <= num_layers for index in indices):
        raise CheckpointError(f"vision_feature_layer is {given}; the vision tower has {num_layers} layers")
    return tuple(index % (num_layers + 1) for index in indices)


def _check_vision_half(config: LlavaNextConfig) -> None:
    if (kind := config.vision_config.model_type) != "clip_vision_model":
        raise CheckpointError(f"the vision tower is {kind!r}; 'clip_vision_model' is needed")
    if (strategy := config.vision_feature_select_strategy) != "default":
        raise CheckpointError(
            f"vision_feature_select_strategy is {strategy!r}; 'default' is needed, which leaves out [CLS]"
        )
    feature_layers(config)


def _check_tiles(processor: LlavaNextImageProcessorPil, config: LlavaNextConfig) -> None:
    tile, crop = config.vision_config.image_size, processor.crop_size
    if (crop["height"], crop["width"]) != (tile, tile):
        raise CheckpointError(
            f"the image processor makes tiles of {crop['height']} x {crop['width']} pixels; "
            f"the vision tower takes {tile} x {tile}"
        )
    size = processor.size
    height, width = size.height or size.shortest_edge, size.width or size.shortest_edge
    if (height, width) != (tile, tile):
        raise CheckpointError(
            f"the image processor resizes tiles to {height} x {width} pixels; the vision tower takes {tile} x {tile}"
        )
    check_pinpoints(processor, config, tile)
