"""Reads one half of an ordinary Hugging Face LLaVA-NeXT checkpoint, and no tensor of the other half.

A checkpoint is a local folder or a hub id. Tensor names differ between the versions of transformers that wrote them;
here they have one canonical form: `vision_tower.*`, `multi_modal_projector.*`, `image_newline`, and for the text
model `language_model.model.*` and `language_model.lm_head.*`.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import LlavaNextConfig, LlavaNextImageProcessorPil
from transformers.utils import cached_file

from visionsplit.errors import VisionSplitError

# The types of weights and activations that a service may be asked for, by name.
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_LFS_POINTER = b"version https://git-lfs"  # what a clone without git-lfs has in place of a large file

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
        self.name = _name_of(name_or_path)
        config = self._read_json("config.json")
        if config.get("model_type") != "llava_next":
            raise CheckpointError(f"checkpoint {self.name!r} is {config.get('model_type')!r}; 'llava_next' is needed")
        if config.get("quantization_config"):
            raise CheckpointError(f"checkpoint {self.name!r} is quantised; visionsplit loads plain weights only")
        try:
            self.config = LlavaNextConfig.from_dict(config)
        except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
            raise CheckpointError(f"config.json of checkpoint {self.name!r} is damaged: {_line(error)}") from error
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

    def dtype_on(self, device: torch.device) -> torch.dtype:
        """The type to compute in where none is asked for: float32 on a CPU, the stored one on a GPU."""
        return torch.float32 if device.type == "cpu" else self.dtype

    def image_processor(self) -> LlavaNextImageProcessorPil:
        """The checkpoint's image processor. Always Pillow's, so that every machine cuts an image alike.

        Raises:
            CheckpointError: the checkpoint has none, or a damaged one.
        """
        try:
            return LlavaNextImageProcessorPil.from_pretrained(self.source, revision=self.revision)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"checkpoint {self.name!r} has no readable image processor") from error

    def load_into(
        self, module: torch.nn.Module, tensor_name: Callable[[str], str], *, unused: Callable[[str], bool] | None = None
    ) -> None:
        """Copy weights into every parameter and persistent buffer of a module, in the module's own type and place.

        Args:
            module: receives the weights.
            tensor_name: the canonical name for a name in the module's state dict.
            unused: state dict names that may be missing from the checkpoint, because another tensor is tied to them.

        Raises:
            CheckpointError: a tensor is missing or has another shape, or a file of weights is damaged.
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

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads(self.file(name).read_text())
        except OSError as error:
            raise CheckpointError(self._why_missing(name)) from error
        except ValueError as error:
            raise self._damaged(name) from error
        if not isinstance(content, dict):
            raise self._damaged(name)
        return content

    def _why_missing(self, name: str) -> str:
        folder = Path(self.source)
        if self.source and folder.is_dir():
            return f"checkpoint {self.name!r} has no file {name}"
        if self.source and folder.exists():
            return f"{self.name!r} is a file; a checkpoint is a folder or a hub id"
        if _is_path(self.source):
            return f"there is no folder {self.name!r}"
        return f"there is no folder {self.name!r}, and no such checkpoint on the hub or the hub cannot be reached"

    def _locate_tensors(self) -> dict[str, _Location]:
        if self._has(_INDEX):
            file_of = self._read_json(_INDEX).get("weight_map")
            if not isinstance(file_of, dict):
                raise self._damaged(_INDEX)
        elif self._has(_SINGLE):
            with self._weights(_SINGLE) as handle:
                file_of = dict.fromkeys(handle.keys(), _SINGLE)
        else:
            raise CheckpointError(
                f"checkpoint {self.name!r} has neither {_INDEX} nor {_SINGLE}; pickled weights are not read"
            )
        return {_canonical_name(key): _Location(file, key) for key, file in file_of.items()}

    def _has(self, name: str) -> bool:
        try:
            return self.file(name).is_file()
        except OSError:
            return False

    def _read(self, names: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """The named tensors on the CPU, file by file, each mapped from disk and not kept."""
        by_file: dict[str, list[str]] = {}
        for name in names:
            by_file.setdefault(self._locations[name].file, []).append(name)
        for file, members in by_file.items():
            with self._weights(file) as handle:
                for name in members:
                    yield name, handle.get_tensor(self._locations[name].key)

    @contextmanager
    def _weights(self, name: str) -> Iterator[Any]:
        """An open safetensors file.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        try:
            with safe_open(self.file(name), framework="pt") as handle:
                yield handle
        except OSError as error:
            raise CheckpointError(f"checkpoint {self.name!r} has no readable file {name}") from error
        except SafetensorError as error:
            raise self._damaged(name) from error

    def _damaged(self, name: str) -> CheckpointError:
        """What to say of a file that is there and cannot be understood."""
        with self.file(name).open("rb") as stream:
            if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
                return CheckpointError(
                    f"{name} of checkpoint {self.name!r} is a git-lfs pointer and not the file; run git lfs pull"
                )
        return CheckpointError(f"{name} of checkpoint {self.name!r} is damaged or incomplete")


def _is_path(source: str) -> bool:
    """Whether a checkpoint's name can only be a path: a hub id has one slash at most and begins with a word."""
    return source.count("/") > 1 or source.startswith(("/", ".", "~"))


def _name_of(source: str) -> str:
    """What a checkpoint is called in logs and errors: its folder without the way there, or its hub id."""
    path = Path(source)
    return path.resolve().name if source and (path.exists() or _is_path(source)) else source


def _line(error: Exception) -> str:
    """An error's text as one line."""
    return " ".join(str(error).split())


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
