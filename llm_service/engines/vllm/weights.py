"""Loads a checkpoint's language half into vLLM, straight from the checkpoint's own files.

vLLM gets the text model's configuration instead of the whole model's (`text_config`), and its tensors under the names
that they have in a language model by itself. So no second copy of the weights is written to disk.
"""

import copy
from collections.abc import Iterator

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from visionsplit.families import MODEL_TYPES
from visionsplit.families.checkpoint import Checkpoint
from vllm.config import ModelConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

LOAD_FORMAT = "visionsplit"
_LANGUAGE = "language_model."


def text_config(config: PretrainedConfig, *, tied: bool) -> PretrainedConfig:
    """The configuration of a checkpoint's text model; any other configuration is returned as it is.

    `tied` is whether the model's head is its table of embeddings.
    """
    if config.model_type not in MODEL_TYPES:
        return config
    text: PretrainedConfig = copy.deepcopy(config.text_config)
    text.tie_word_embeddings = tied
    text.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[text.model_type]]
    return text


class LanguageHalfLoader(DefaultModelLoader):  # type: ignore[misc]  # vLLM is not installed where types are checked
    """Reads the tensors of the language half. vLLM's own loader checks that none is missing."""

    def __init__(self, load_config: LoadConfig) -> None:
        super().__init__(load_config)
        self.counter_before_loading_weights = 0.0

    def download_model(self, model_config: ModelConfig) -> None:
        Checkpoint(model_config.model, revision=model_config.revision)

    def get_all_weights(self, model_config: ModelConfig, model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
        """Name in a language model by itself, and tensor, one after another; each is mapped from disk and not kept."""
        checkpoint = Checkpoint(model_config.model, revision=model_config.revision)
        names = sorted(name for name in checkpoint.tensor_names if name.startswith(_LANGUAGE))
        for name, tensor in checkpoint.read(names):
            yield name.removeprefix(_LANGUAGE), tensor


def register_format() -> None:
    """Make `LOAD_FORMAT` known to vLLM in this process."""
    register_model_loader(LOAD_FORMAT)(LanguageHalfLoader)
