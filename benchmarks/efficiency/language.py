"""The language model on one prompt: prefill and greedy steps, one request alone.

Every row of a table is run by the same runner, so that ratios between rows are those of the work: layer by layer, as
the LLM service prunes inside the model; or, where the transformers library is too old for that package, by the
library's own forward pass, which cannot prune.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend
from transformers import DynamicCache, PreTrainedModel
from visionsplit.options.prefill import Pruning

from llm_service.pruning import PromptLayout, compose
from llm_service.pruning.base import NO_TILE

try:
    from llm_service.engines.layerwise.model import LayerwiseModel
except ImportError as error:  # the engine beside it needs what transformers 5.17 does not have
    _MISSING = str(error)
else:
    _MISSING = ""


@dataclass(frozen=True)
class ImageRows:
    """The rows of a prompt that belong to an image."""

    start: int
    tiles: torch.Tensor  # [vision] int64, the tile of each vision token, NO_TILE of a newline
    quotas: list[int] | None = None  # how many vision tokens of each tile pruning keeps


@dataclass(frozen=True)
class Prefilled:
    """A prompt after its prefill."""

    layer_tokens: tuple[int, ...]  # prompt tokens in each layer's cache
    cache_bytes: int  # keys and values of all layers' prompt tokens
    logits: torch.Tensor  # [V] of the last token
    step: Callable[[int], torch.Tensor]  # next token -> logits [V] after it


def why_no_pruning() -> str:
    """Why pruning inside the model is not possible here; empty if it is."""
    return f"the layerwise model cannot be imported: {_MISSING}" if _MISSING else ""


class LanguageModel:
    """A causal language model and its runner."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._layerwise = None if _MISSING else LayerwiseModel(model)
        self.runner = "transformers' own forward pass" if _MISSING else "layer by layer"

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Text tokens [n] to [n, D]."""
        embedded: torch.Tensor = self._model.get_input_embeddings()(token_ids)
        return embedded

    def prefill(self, embeddings: torch.Tensor, image: ImageRows, pruning: Pruning | None) -> Prefilled:
        """Run a prompt's prefill.

        Args:
            embeddings: [n, D].
            image: which of them are vision tokens and newlines, and of what tiles.
            pruning: what to drop between layers.

        Raises:
            InvalidPruningError: a model of this depth cannot prune so.
        """
        if self._layerwise is None:
            return by_library(self._model, embeddings)
        return by_layers(self._layerwise, embeddings, image, pruning)

    def attention_kernel(self, tokens: int) -> str:
        """The attention kernel that PyTorch uses for a prefill of this many tokens."""
        config = self._model.config
        shape = (1, config.num_attention_heads, tokens, config.hidden_size // config.num_attention_heads)
        rows = torch.empty(shape, dtype=self._model.dtype, device=self._model.device)  # [1, A, n, d]
        return SDPBackend(torch._fused_sdp_choice(rows, rows, rows, None, 0.0, True)).name.lower()


def decode(prefilled: Prefilled, new_tokens: int) -> list[int]:
    """Greedy tokens, each copied to the host when it is ready, the first from the prefill; none ends the answer."""
    ids = [int(prefilled.logits.argmax())]
    while len(ids) < new_tokens:
        ids.append(int(prefilled.step(ids[-1]).argmax()))
    return ids


def by_layers(
    model: "LayerwiseModel", embeddings: torch.Tensor, image: ImageRows, pruning: Pruning | None
) -> Prefilled:
    """The LLM service's implementation, layer by layer; see `LanguageModel.prefill`."""
    device, rows = embeddings.device, slice(image.start, image.start + len(image.tiles))
    vision = torch.zeros(len(embeddings), dtype=torch.bool, device=device)  # [n]
    vision[rows] = True
    tiles = torch.full((len(embeddings),), NO_TILE, device=device)  # [n]
    tiles[rows] = image.tiles.to(device)
    quotas = None if image.quotas is None else torch.tensor(image.quotas, device=device)  # [tiles]
    composed = None if pruning is None else compose(pruning, model.num_layers, quotas=quotas is not None)
    state = model.prefill(embeddings, PromptLayout.of(vision, tiles=tiles, quotas=quotas), composed)
    size = sum(state.layer_tokens) * model.kv_bytes_per_token // model.num_layers
    return Prefilled(state.layer_tokens, size, state.logits, lambda token: model.step(state, token))


def by_library(model: PreTrainedModel, embeddings: torch.Tensor) -> Prefilled:
    """The transformers library's forward pass on a prompt [n, D], without pruning."""
    cache = DynamicCache(config=model.config)
    output = model(inputs_embeds=embeddings[None], past_key_values=cache, use_cache=True, logits_to_keep=1)

    def step(token: int) -> torch.Tensor:
        ids = torch.tensor([[token]], device=embeddings.device)
        logits: torch.Tensor = model(input_ids=ids, past_key_values=cache, use_cache=True).logits[0, -1]
        return logits

    held = [part for layer in cache.layers for part in (layer.keys, layer.values)]  # each [1, heads, n, d]
    size = sum(part.numel() * part.element_size() for part in held)
    return Prefilled(tuple(key.shape[2] for key in held[::2]), size, output.logits[0, -1], step)
