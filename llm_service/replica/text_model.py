"""Loads a checkpoint's language model without its vision half."""

import copy

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights
from visionsplit.families.checkpoint import Checkpoint


def load_text_model(checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """Load the text model that the checkpoint's configuration names directly onto its device, without a second copy.

    Raises:
        CheckpointError: a weight is missing or has another shape.
    """
    config = copy.deepcopy(checkpoint.config.text_config)
    config.tie_word_embeddings = checkpoint.tied_embeddings()
    with no_init_weights(), torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.tie_weights()
    tied = config.tie_word_embeddings
    checkpoint.load_into(
        model, lambda name: f"language_model.{name}", unused=lambda name: tied and name == "lm_head.weight"
    )
    return model.requires_grad_(False).eval()
