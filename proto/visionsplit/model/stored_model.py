"""A stored model in Hugging Face's format: its configuration, and its weights, read tensor by tensor on demand."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import cached_file

from visionsplit.errors import VisionSplitError
from visionsplit.model.names import is_path

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_LFS_POINTER = b"version https://git-lfs"  # the beginning of the file that a clone without git-lfs has instead


class CheckpointError(VisionSplitError):
    """A checkpoint that cannot be read or that visionsplit cannot split. Raised only at start-up."""


@dataclass(frozen=True)
class _Location:
    file: str  # name within the checkpoint
    key: str  # name within the file


class StoredModel:
    """A local folder or a hub id with config.json and one or more safetensors files; opened but not loaded."""

    def __init__(
        self,
        name_or_path: str,
        canonical: Mapping[str, Callable[[str], str]],
        *,
        revision: str | None = None,
    ) -> None:
        """Read the configuration and the list of tensors.

        Args:
            name_or_path: the folder or hub id.
            canonical: the accepted architectures, as config.json names them, and for each of them what maps the stored
                name of a tensor to the name by which it is requested.
            revision: the revision of a hub id.

        Raises:
            CheckpointError: there is no checkpoint, its architecture differs, or its weights are not safetensors.
        """
        self.source = name_or_path
        self.revision = revision
        self.name = _name_of(name_or_path)
        self.fields = self._read_json("config.json")
        self.model_type: str = self.fields.get("model_type", "")
        if self.model_type not in canonical:
            needed = f"{'one of ' if len(canonical) > 1 else ''}{', '.join(map(repr, canonical))}"
            raise CheckpointError(f"checkpoint {self.name!r} is {self.model_type!r}; {needed} is needed")
        if self.fields.get("quantization_config"):
            raise CheckpointError(f"checkpoint {self.name!r} is quantised; visionsplit loads plain weights only")
        self._locations = self._locate_tensors(canonical[self.model_type])

    def file(self, name: str) -> Path:
        """The local path of one file of the checkpoint, downloaded from the hub if necessary.

        Raises:
            OSError: the checkpoint has no such file.
        """
        path = cached_file(self.source, name, revision=self.revision)
        if path is None:
            raise FileNotFoundError(name)
        return Path(path)

    def has(self, name: str) -> bool:
        """Whether the checkpoint has a file of this name."""
        try:
            return self.file(name).is_file()
        except OSError:
            return False

    def stamp(self) -> str:
        """Hash of its files' names, sizes and modification times: a fast test, though not a proof, that it is
        unchanged.

        Raises:
            OSError: a file of weights is missing.
        """
        names = sorted({"config.json", *(location.file for location in self._locations.values())})
        facts = [(name, stat.st_size, stat.st_mtime_ns) for name in names for stat in [self.file(name).stat()]]
        return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()

    @property
    def tensor_names(self) -> frozenset[str]:
        """The canonical names of all tensors."""
        return frozenset(self._locations)

    def load_into(
        self, module: torch.nn.Module, tensor_name: Callable[[str], str], *, unused: Callable[[str], bool] | None = None
    ) -> None:
        """Copy weights into every parameter and persistent buffer of a module, keeping the module's type and device.

        Args:
            module: receives the weights.
            tensor_name: maps a name in the module's state dict to the canonical name.
            unused: state dict names that the checkpoint may lack, because another tensor is tied to them.

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
            for name, tensor in self.read(list(wanted)):
                for target in wanted[name]:
                    if tensor.shape != target.shape:
                        raise CheckpointError(f"{name!r} has shape {list(tensor.shape)}, not {list(target.shape)}")
                    target.copy_(tensor)

    def read(self, names: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Read the named tensors, all of which must exist, on the CPU; each is mapped from disk and not kept.

        Raises:
            CheckpointError: a file of weights is missing or damaged.
        """
        by_file: dict[str, list[str]] = {}
        for name in names:
            by_file.setdefault(self._locations[name].file, []).append(name)
        for file, members in by_file.items():
            with self._weights(file) as handle:
                for name in members:
                    yield name, handle.get_tensor(self._locations[name].key)

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
        if is_path(self.source):
            return f"there is no folder {self.name!r}"
        return f"there is no folder {self.name!r}, and no such checkpoint on the hub or the hub cannot be reached"

    def _locate_tensors(self, canonical: Callable[[str], str]) -> dict[str, _Location]:
        if self.has(_INDEX):
            file_of = self._read_json(_INDEX).get("weight_map")
            if not isinstance(file_of, dict):
                raise self._damaged(_INDEX)
        elif self.has(_SINGLE):
            with self._weights(_SINGLE) as handle:
                file_of = dict.fromkeys(handle.keys(), _SINGLE)
        else:
            raise CheckpointError(
                f"checkpoint {self.name!r} has neither {_INDEX} nor {_SINGLE}; pickled weights are not read"
            )
        return {canonical(key): _Location(file, key) for key, file in file_of.items()}

    @contextmanager
    def _weights(self, name: str) -> Iterator[Any]:
        """Open a safetensors file.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        try:
            with safe_open(self.file(name), framework="pt") as handle:
                yield handle
        except OSError as error:
            raise CheckpointError(f"checkpoint {self.name!r} has no readable file {name}") from error
        except SafetensorError as error:
            raise self._damaged(name) from error

    def _damaged(self, name: str) -> CheckpointError:
        """The error for a file that exists and cannot be parsed."""
        with self.file(name).open("rb") as stream:
            if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
                return CheckpointError(
                    f"{name} of checkpoint {self.name!r} is a git-lfs pointer and not the file; run git lfs pull"
                )
        return CheckpointError(f"{name} of checkpoint {self.name!r} is damaged or incomplete")


def _name_of(source: str) -> str:
    """A checkpoint's name in logs and errors: the last part of its folder's path, or its hub id."""
    path = Path(source)
    return path.resolve().name if source and (path.exists() or is_path(source)) else source


def one_line(error: Exception) -> str:
    """An error's text as one line."""
    return " ".join(str(error).split())
