"""Reads one half of a Hugging Face checkpoint of any family, without the tensors of the other half.

A checkpoint is a local folder or a hub id. Different versions of transformers write different tensor names; each family
converts its own to one canonical form: `vision_tower.*`, `multi_modal_projector.*`, `image_newline`, and for the text
model `language_model.model.*` and `language_model.lm_head.*`.
"""

import hashlib
import json
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from visionsplit.families import MODEL_TYPES, family_of
from visionsplit.families.base import Cutting
from visionsplit.model.stored_model import CheckpointError, StoredModel, one_line

__all__ = ["Checkpoint", "CheckpointError"]

_DAMAGED = (OSError, ValueError, TypeError, KeyError, AttributeError, StrictDataclassError)
_HEAD = "language_model.lm_head.weight"
_EMBEDDINGS = "language_model.model.embed_tokens.weight"


class Checkpoint(StoredModel):
    """One checkpoint, opened but not loaded."""

    def __init__(self, name_or_path: str, *, revision: str | None = None) -> None:
        """Read the configuration and the list of tensors.

        Raises:
            CheckpointError: there is no checkpoint, no family has its architecture, its weights are not safetensors, or
                the encoder cannot serve its vision half. Both services refuse it, so that neither starts alone.
        """
        canonical = {model_type: family_of(model_type).canonical_name for model_type in MODEL_TYPES}
        super().__init__(name_or_path, canonical, revision=revision)
        self.family = family_of(self.model_type)
        try:
            self.settings = self.family.settings(self.fields)
        except CheckpointError:
            raise
        except _DAMAGED as error:
            raise CheckpointError(f"config.json of checkpoint {self.name!r} is damaged: {one_line(error)}") from error
        self.config = self.settings.config

    @property
    def dtype(self) -> torch.dtype:
        """The type in which the weights are stored; float32 if the configuration does not state it."""
        stored = getattr(self.config, "dtype", None)
        return stored if isinstance(stored, torch.dtype) else torch.float32

    def dtype_on(self, device: torch.device) -> torch.dtype:
        """The default type for computing: float32 on a CPU, the stored type on a GPU."""
        return torch.float32 if device.type == "cpu" else self.dtype

    def image_processor(self) -> Any:  # noqa: ANN401 - the library's processors have no common type
        """The checkpoint's image processor; see `Settings.image_processor`.

        Raises:
            CheckpointError: it is missing or damaged, or does not fit the vision tower or the model.
        """
        try:
            return self.settings.image_processor(self.source, self.revision)
        except CheckpointError:
            raise
        except _DAMAGED as error:
            raise CheckpointError(f"checkpoint {self.name!r} has no readable image processor") from error

    def cutting(self) -> Cutting:
        """How the checkpoint cuts images. Raises as `image_processor` does."""
        return self.settings.cutting(self.image_processor())

    def tied_embeddings(self) -> bool:
        """Whether the language model's head is its table of embeddings.

        The whole model's setting decides. Where it is true and a head that differs is stored all the same, the library
        follows the stored one.
        """
        if not getattr(self.config, "tie_word_embeddings", False):
            return False
        if not {_HEAD, _EMBEDDINGS} <= self.tensor_names:
            return True
        (_, head), (_, embeddings) = self.read([_HEAD, _EMBEDDINGS])
        return torch.equal(head, embeddings)

    def encoder_fingerprint(self) -> str:
        """Hash of the stored weights that decide an image's features, and of the image processor's settings, as 32 hex
        digits.

        Both services compute it, so that a language model never receives tokens that it was not trained on.
        """
        settings = self.settings.fingerprint(self.image_processor())
        # One digest per tensor, combined in the order of names: the division into files does not matter.
        names = [name for name in sorted(self.tensor_names) if name.startswith(self.settings.encoder_tensors)]
        tensors = {name: _tensor_digest(tensor) for name, tensor in self.read(names)}
        facts = json.dumps([settings, sorted(tensors.items())], sort_keys=True, default=str)
        return hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()


def _tensor_digest(tensor: torch.Tensor) -> str:
    digest = hashlib.blake2b(f"{tensor.dtype} {list(tensor.shape)} ".encode(), digest_size=16)
    digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
