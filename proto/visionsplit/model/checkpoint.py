"""Reads one half of a Hugging Face LLaVA-NeXT checkpoint, without the tensors of the other half.

A checkpoint is a local folder or a hub id. Different versions of transformers write different tensor names; this module
converts them to one canonical form: `vision_tower.*`, `multi_modal_projector.*`, `image_newline`, and for the text
model `language_model.model.*` and `language_model.lm_head.*`.
"""

import hashlib
import json
import re
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import LlavaNextConfig, LlavaNextImageProcessorPil

from visionsplit.model.stored_model import CheckpointError, StoredModel, one_line

__all__ = ["Checkpoint", "CheckpointError", "feature_layers"]

# Applied in order after removing a leading "model."; the first match wins.
_CANONICAL = (
    (re.compile(r"^vision_tower\.(?:vision_model\.)?(.+)$"), r"vision_tower.\1"),
    (re.compile(r"^(?:language_model\.)?lm_head\.(.+)$"), r"language_model.lm_head.\1"),
    (re.compile(r"^language_model\.(?:model\.)?(.+)$"), r"language_model.model.\1"),
)
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


class Checkpoint(StoredModel):
    """One LLaVA-NeXT checkpoint, opened but not loaded."""

    def __init__(self, name_or_path: str, *, revision: str | None = None) -> None:
        """Read the configuration and the list of tensors.

        Raises:
            CheckpointError: there is no checkpoint, its architecture differs, its weights are not safetensors, or the
                encoder cannot serve its vision half. Both services refuse it, so that neither starts alone.
        """
        super().__init__(name_or_path, "llava_next", revision=revision, canonical=_canonical_name)
        try:
            self.config = LlavaNextConfig.from_dict(self.fields)
        except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
            raise CheckpointError(f"config.json of checkpoint {self.name!r} is damaged: {one_line(error)}") from error
        _check_vision_half(self.config)

    @property
    def dtype(self) -> torch.dtype:
        """The type in which the weights are stored; float32 if the configuration does not state it."""
        stored = getattr(self.config, "dtype", None)
        return stored if isinstance(stored, torch.dtype) else torch.float32

    def dtype_on(self, device: torch.device) -> torch.dtype:
        """The default type for computing: float32 on a CPU, the stored type on a GPU."""
        return torch.float32 if device.type == "cpu" else self.dtype

    def image_processor(self) -> LlavaNextImageProcessorPil:
        """The checkpoint's image processor, always in its Pillow version, so that all machines cut images alike.

        Raises:
            CheckpointError: it is missing or damaged, its tile size differs from the vision tower's, or its grids
                differ from the model's.
        """
        try:
            processor = LlavaNextImageProcessorPil.from_pretrained(self.source, revision=self.revision)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"checkpoint {self.name!r} has no readable image processor") from error
        _check_tiles(processor, self.config)
        return processor

    def encoder_fingerprint(self) -> str:
        """Hash of the vision tower's stored weights and of the image processor's settings, as 32 hex digits.

        Both services compute it, so that a language model never receives tokens that it was not trained on.
        """
        processor = self.image_processor().to_dict()
        settings: dict[str, Any] = {name: processor.get(name) for name in _PROCESSOR_SETTINGS}
        settings["vision_feature_layer"] = self.config.vision_feature_layer
        settings["vision_feature_select_strategy"] = self.config.vision_feature_select_strategy
        # One digest per tensor, combined in the order of names: the division into files does not matter.
        names = [name for name in sorted(self.tensor_names) if name.startswith("vision_tower.")]
        tensors = {name: _tensor_digest(tensor) for name, tensor in self.read(names)}
        facts = json.dumps([settings, sorted(tensors.items())], sort_keys=True, default=str)
        return hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()


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
    pinpoints = [list(point) for point in processor.image_grid_pinpoints]
    if pinpoints != [list(point) for point in config.image_grid_pinpoints]:
        raise CheckpointError("the image processor's image_grid_pinpoints differ from the model's")
    for height, width in pinpoints:
        if height % tile or width % tile:
            raise CheckpointError(f"grid pinpoint {height} x {width} is not whole tiles of {tile}")


def _canonical_name(key: str) -> str:
    key = key.removeprefix("model.")
    for pattern, replacement in _CANONICAL:
        if pattern.match(key):
            return pattern.sub(replacement, key)
    return key


def _tensor_digest(tensor: torch.Tensor) -> str:
    digest = hashlib.blake2b(f"{tensor.dtype} {list(tensor.shape)} ".encode(), digest_size=16)
    digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
