"""Reads one half of an ordinary Hugging Face LLaVA-NeXT checkpoint, and no tensor of the other half.

A checkpoint is a local folder or a hub id. Tensor names differ between the versions of transformers that wrote them;
here they have one canonical form: `vision_tower.*`, `multi_modal_projector.*`, `image_newline`, and for the text
model `language_model.model.*` and `language_model.lm_head.*`.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import LlavaNextConfig, LlavaNextImageProcessorPil
from transformers.utils import cached_file

from visionsplit.errors import VisionSplitError

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"

# Applied in order, first match wins, after a leading "model." is gone.
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


class CheckpointError(VisionSplitError):
    """A checkpoint that cannot be read, or is not one that visionsplit can split. Raised at start-up only."""


@dataclass(frozen=True)
class _Location:
    file: str  # name within the checkpoint
    key: str  # name within the file


class Checkpoint:
    """One LLaVA-NeXT checkpoint, opened but not loaded."""

    def __init__(self, name_or_path: str, *, revision: str | None = None) -> None:
        """Read the configuration and the list of tensors.

        Raises:
            CheckpointError: nothing there, another architecture, or weights not stored as safetensors.
        """
        self.source = name_or_path
        self.revision = revision
        self.name = Path(name_or_path).name if Path(name_or_path).exists() else name_or_path
        try:
            config = json.loads(self.file("config.json").read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"no readable config.json in checkpoint {self.name!r}: {error}") from error
        if config.get("model_type") != "llava_next":
            raise CheckpointError(f"checkpoint {self.name!r} is {config.get('model_type')!r}; 'llava_next' is needed")
        if config.get("quantization_config"):
            raise CheckpointError(f"checkpoint {self.name!r} is quantised; visionsplit loads plain weights only")
        self.config = LlavaNextConfig.from_dict(config)
        self._locations = self._locate_tensors()

    def file(self, name: str) -> Path:
        """The local path of one file of the checkpoint, downloaded if the checkpoint is on the hub.

        Raises:
            OSError: the checkpoint has no such file.
        """
        path = cached_file(self.source, name, revision=self.revision)
        if path is None:
            raise FileNotFoundError(name)
        return Path(path)

    @property
    def tensor_names(self) -> frozenset[str]:
        """Canonical names of all tensors."""
        return frozenset(self._locations)

    @property
    def dtype(self) -> torch.dtype:
        """The type in which the weights are stored; float32 if the configuration does not say."""
        stored = getattr(self.config, "dtype", None)
        return stored if isinstance(stored, torch.dtype) else torch.float32

    def image_processor(self) -> LlavaNextImageProcessorPil:
        """The checkpoint's image processor. Always Pillow's, so that every machine cuts an image alike.

        Raises:
            CheckpointError: the checkpoint has none.
        """
        try:
            return LlavaNextImageProcessorPil.from_pretrained(self.source, revision=self.revision)
        except OSError as error:
            raise CheckpointError(f"checkpoint {self.name!r} has no image processor") from error

    def load_into(
        self, module: torch.nn.Module, tensor_name: Callable[[str], str], *, unused: Callable[[str], bool] | None = None
    ) -> None:
        """Copy weights into every parameter and persistent buffer of a module, in the module's own type and place.

        Args:
            module: receives the weights.
            tensor_name: the canonical name for a name in the module's state dict.
            unused: state dict names that may be missing from the checkpoint, because another tensor is tied to them.

        Raises:
            CheckpointError: a tensor is missing or has another shape.
        """
        wanted: dict[str, list[torch.Tensor]] = {}
        for name, target in module.state_dict(keep_vars=True).items():
            if not (unused and unused(name)):
                wanted.setdefault(tensor_name(name), []).append(target)
        missing = sorted(set(wanted) - set(self._locations))
        if missing:
            raise CheckpointError(f"checkpoint {self.name!r} has no tensor {missing[0]!r} ({len(missing)} missing)")
        with torch.no_grad():
            for name, tensor in self._read(list(wanted)):
                for target in wanted[name]:
                    if tensor.shape != target.shape:
                        raise CheckpointError(f"{name!r} has shape {list(tensor.shape)}, not {list(target.shape)}")
                    target.copy_(tensor)

    def encoder_fingerprint(self) -> str:
        """Hash of the vision tower's stored weights and of the image processor's settings, as 32 hex digits.

        Both services compute it, so tokens never meet a language model that was trained on others.
        """
        processor = self.image_processor().to_dict()
        settings: dict[str, Any] = {name: processor.get(name) for name in _PROCESSOR_SETTINGS}
        settings["vision_feature_layer"] = self.config.vision_feature_layer
        settings["vision_feature_select_strategy"] = self.config.vision_feature_select_strategy
        # A digest for each tensor, put together in order of their names: in which file a tensor lies does not matter.
        names = [name for name in self._locations if name.startswith("vision_tower.")]
        tensors = {name: _tensor_digest(tensor) for name, tensor in self._read(names)}
        facts = json.dumps([settings, sorted(tensors.items())], sort_keys=True, default=str)
        return hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()

    def _locate_tensors(self) -> dict[str, _Location]:
        try:
            file_of: dict[str, str] = json.loads(self.file(_INDEX).read_text())["weight_map"]
        except OSError:
            file_of = self._tensors_of_single_file()
        return {_canonical_name(key): _Location(file, key) for key, file in file_of.items()}

    def _tensors_of_single_file(self) -> dict[str, str]:
        try:
            with safe_open(self.file(_SINGLE), framework="pt") as handle:
                return dict.fromkeys(handle.keys(), _SINGLE)
        except OSError as error:
            raise CheckpointError(
                f"checkpoint {self.name!r} has neither {_INDEX} nor {_SINGLE}; pickled weights are not read"
            ) from error

    def _read(self, names: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """The named tensors on the CPU, file by file, each mapped from disk and not kept."""
        by_file: dict[str, list[str]] = {}
        for name in names:
            by_file.setdefault(self._locations[name].file, []).append(name)
        for file, members in by_file.items():
            with safe_open(self.file(file), framework="pt") as handle:
                for name in members:
                    yield name, handle.get_tensor(self._locations[name].key)


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
