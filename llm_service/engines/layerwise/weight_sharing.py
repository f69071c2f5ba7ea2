"""A second module over the same weights: what another engine does to its model leaves this one alone."""

import copy

import torch
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights
from visionsplit.errors import InvalidRequestError

from llm_service.job import LAYERWISE_MODELS


def twin_of(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same class on the same device, its parameters the same memory as the given one's.

    Continuous batching sets the attention implementation in its model's configuration and has its input embedding
    replaced; the twin has a configuration of its own and the plain embedding. Weights are only ever read, so both may
    compute at one time.

    Raises:
        InvalidRequestError: the architecture is not one of `LAYERWISE_MODELS`.
    """
    if model.config.model_type not in LAYERWISE_MODELS:
        raise InvalidRequestError(
            f"vision tokens can be pruned, or keep their original places, in {', '.join(LAYERWISE_MODELS)} models; "
            f"this one is {model.config.model_type}"
        )
    config = copy.deepcopy(model.config)
    with no_init_weights(), torch.device("meta"):
        twin: PreTrainedModel = type(model)._from_config(config, attn_implementation="sdpa")
    table = model.get_input_embeddings()
    name = "model.embed_tokens."
    weights = {key: value for key, value in model.state_dict().items() if not key.startswith(name)}
    twin.load_state_dict({**weights, f"{name}weight": table.weight}, assign=True)
    with torch.device(model.device):
        # Its tables are no parameters: made anew, in full precision.
        twin.model.rotary_emb = type(twin.model.rotary_emb)(config)
    return twin.requires_grad_(False).eval()
