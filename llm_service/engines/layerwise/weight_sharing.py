"""Creates a second model that shares the weights of a first, and is unaffected by what an engine does to the first."""

import copy

import torch
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights
from visionsplit.errors import InvalidRequestError

from llm_service.job import LAYERWISE_MODELS


def weight_sharing_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same class on the same device, whose parameters share memory with those of the given model.

    Continuous batching changes the attention implementation in its model's configuration and replaces its input
    embedding; the second model has a separate configuration and the original embedding. Weights are only read, so both
    models may compute at the same time.

    Raises:
        InvalidRequestError: the architecture is not one of `LAYERWISE_MODELS`.
    """
    if model.config.model_type not in LAYERWISE_MODELS:
        raise InvalidRequestError(
            f"vision tokens can be pruned, or keep their original positions, in {', '.join(LAYERWISE_MODELS)} models; "
            f"this one is {model.config.model_type}"
        )
    config = copy.deepcopy(model.config)
    with no_init_weights(), torch.device("meta"):
        copied: PreTrainedModel = type(model)._from_config(config, attn_implementation="sdpa")
    table = model.get_input_embeddings()
    name = "model.embed_tokens."
    weights = {key: value for key, value in model.state_dict().items() if not key.startswith(name)}
    copied.load_state_dict({**weights, f"{name}weight": table.weight}, assign=True)
    with torch.device(model.device):
        # The rotation tables are not parameters, so they are computed again, in full precision.
        copied.model.rotary_emb = type(copied.model.rotary_emb)(config)
    return copied.requires_grad_(False).eval()
