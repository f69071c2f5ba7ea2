"""Runs a decoder layer by layer for one request, so that layers may see different parts of its prompt."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
from visionsplit.errors import InvalidPruningError, PromptTooLongError

from llm_service.engines.layerwise.kv_cache import KvCache
from llm_service.engines.layerwise.weight_sharing import weight_sharing_copy
from llm_service.pruning import ComposedPruning, PromptLayout, Stage

_ROWS_AT_ONCE = 64  # rows of attention for all heads: bounds the memory that a long question takes
Rotation = tuple[torch.Tensor, torch.Tensor]  # cos and sin, each [1, n, head size]


@dataclass(frozen=True)
class _Segment:
    """Consecutive layers that saw the same tokens of the prompt."""

    end: int  # index after its last layer
    next_position: int  # position of the first generated token in these layers


@dataclass
class LayerwiseState:
    """One request's state between steps."""

    logits: torch.Tensor  # [vocabulary] float32, of the next token
    layer_tokens: tuple[int, ...]  # tokens of the prompt in each layer's cache
    cache: KvCache
    segments: tuple[_Segment, ...]
    generated: int = field(default=0)  # tokens that `step` has processed


class LayerwiseModel:
    """A causal language model that shares its weights, and nothing else, with a model of the library.

    One thread at a time may use it, while another thread uses the library's model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Allocate almost no memory.

        Raises:
            InvalidRequestError: the architecture is not supported; see `weight_sharing_copy`.
        """
        self._model = weight_sharing_copy(model)
        config = self._model.config
        self.context_length = int(config.max_position_embeddings)
        self.num_layers = int(config.num_hidden_layers)
        self.vocabulary_size = int(config.vocab_size)
        weight = self._model.lm_head.weight
        self.device: torch.device = weight.device
        self.dtype: torch.dtype = weight.dtype
        self._layers: list[Any] = list(self._model.model.layers)
        self.windows = tuple(_window_of(layer) for layer in self._layers)
        self._head_size: int = self._layers[0].self_attn.head_dim
        heads: int = config.num_key_value_heads
        self.kv_bytes_per_token = 2 * self.num_layers * heads * self._head_size * self.dtype.itemsize

    @torch.no_grad()
    def embed(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Embed text tokens, [n, Dl]."""
        embedded: torch.Tensor = self._model.model.embed_tokens(torch.tensor(token_ids, device=self.device).long())
        return embedded

    @torch.no_grad()
    def prefill(
        self, embeddings: torch.Tensor, prompt: PromptLayout, pruning: ComposedPruning | None = None
    ) -> LayerwiseState:
        """Run a prompt through all layers.

        Args:
            embeddings: [n, Dl] in the model's type, on its device.
            prompt: the layout of the n tokens, on the same device.
            pruning: the tokens to drop between layers, composed for a model of this depth.

        Raises:
            InvalidPruningError: the pruning was composed for another depth.
            PromptTooLongError: n is more than `context_length`.
        """
        if len(embeddings) > self.context_length:
            raise PromptTooLongError(f"prompt of {len(embeddings)} tokens; this model holds {self.context_length}")
        if pruning is not None and pruning.num_layers != self.num_layers:
            raise InvalidPruningError(
                f"pruning for {pruning.num_layers} layers cannot run in a model of {self.num_layers}"
            )
        run = _Prefill(self, embeddings, prompt, pruning)
        for index in range(self.num_layers):
            run.prune_before(index)
            run.layer(index)
        segments = (*run.segments, _Segment(self.num_layers, _after(run.prompt)))
        return LayerwiseState(self._logits(run.hidden[-1:]), run.cache.lengths, run.cache, segments)

    @torch.no_grad()
    def step(self, state: LayerwiseState, token_id: int) -> torch.Tensor:
        """Run one generated token; return the next one's logits, [vocabulary] float32, which the state keeps too."""
        hidden = self.embed([token_id])  # [1, Dl]
        positions = torch.tensor(
            [segment.next_position + state.generated for segment in state.segments], device=self.device
        )
        cos, sin = self.rotation(hidden, positions)  # [1, segments, head size]
        start = 0
        for number, segment in enumerate(state.segments):
            rotation = cos[:, number : number + 1], sin[:, number : number + 1]
            for index in range(start, segment.end):
                hidden = self.run_layer(index, hidden, rotation, state.cache)
            start = segment.end
        state.generated += 1
        state.logits = self._logits(hidden)
        return state.logits

    def rotation(self, hidden: torch.Tensor, positions: torch.Tensor) -> Rotation:
        """Cosines and sines for positions [n]."""
        cos, sin = self._model.model.rotary_emb(hidden, position_ids=positions[None])
        return cos, sin

    def run_layer(self, index: int, hidden: torch.Tensor, rotation: Rotation, cache: KvCache) -> torch.Tensor:
        """Run one layer on [n, Dl], with causal attention to everything that the layer's cache holds.

        Either n is 1, or the cache is empty. As in the library's models, a sliding window counts the tokens that the
        layer holds and not their position ids.
        """
        # Without a mask, the library's attention is causal for a whole prompt, and lets a single token see all keys;
        # for a single token, the cache returns only the window.
        window, count = self.windows[index], len(hidden)
        mask = None if window is None or count <= window else self._banded(count, window)
        output: torch.Tensor = self._layers[index](
            hidden[None], attention_mask=mask, position_embeddings=rotation, past_key_values=cache, use_cache=True
        )
        return output[0]

    def _banded(self, count: int, window: int) -> torch.Tensor:
        """The mask of a causal sliding window, [1, 1, count, count] bool, True where a row sees a column."""
        seen = torch.ones(count, count, dtype=torch.bool, device=self.device)
        return seen.tril().triu(1 - window)[None, None]

    def attention_rows(
        self, index: int, hidden: torch.Tensor, rotation: Rotation, rows: torch.Tensor, keys: torch.Tensor | None
    ) -> torch.Tensor:
        """Compute some rows of a layer's attention.

        Args:
            index: the layer.
            hidden: [n, Dl] the layer's input.
            rotation: the rotation of the n tokens.
            rows: [r] int64 rows, as negative indices from the end.
            keys: [kv heads, n, head size] if the layer has run, else None.

        Returns:
            [r, n] float32, the softmax over the tokens that the row sees: neither later ones nor those before the
            layer's sliding window. Mean over heads.
        """
        layer, count, size = self._layers[index], len(hidden), self._head_size
        cos, sin = rotation
        normed = layer.input_layernorm(hidden)  # [n, Dl]
        if keys is None:
            fresh = layer.self_attn.k_proj(normed).view(1, count, -1, size).transpose(1, 2)  # [1, kv heads, n, d]
            fresh, _ = apply_rotary_pos_emb(fresh, fresh, cos, sin)
            keys = fresh[0]
        parts: list[torch.Tensor] = []  # each [some of r, n]
        for some in torch.split(rows + count, _ROWS_AT_ONCE):
            queries = layer.self_attn.q_proj(normed[some]).view(1, len(some), -1, size).transpose(1, 2)  # [1, H, r, d]
            queries, _ = apply_rotary_pos_emb(queries, queries, cos[:, some], sin[:, some])
            grouped = queries[0].reshape(len(keys), -1, size)  # [kv heads, groups * r, d]
            scores = (grouped @ keys.transpose(1, 2) * layer.self_attn.scaling).float()  # [kv heads, groups * r, n]
            scores = scores.view(-1, len(some), count)  # [H, r, n]
            distance = some[:, None] - torch.arange(count, device=self.device)[None, :]  # [r, n]
            unseen = distance < 0
            if (window := self.windows[index]) is not None:
                unseen |= distance >= window
            parts.append(scores.masked_fill(unseen, -torch.inf).softmax(-1).mean(0))
        return torch.cat(parts)

    def _logits(self, last: torch.Tensor) -> torch.Tensor:
        """[vocabulary] float32 from the last layer's output of one token, [1, Dl]."""
        logits: torch.Tensor = self._model.lm_head(self._model.model.norm(last))
        return logits[0].float()


class _Prefill:
    """A prompt that is passing through the layers."""

    def __init__(
        self, model: LayerwiseModel, embeddings: torch.Tensor, prompt: PromptLayout, pruning: ComposedPruning | None
    ) -> None:
        self.hidden, self.prompt = embeddings, prompt
        self.cache = KvCache(model.windows)
        self.segments: list[_Segment] = []
        self._model = model
        self._pruning = pruning
        self._stages: dict[int, tuple[int, Stage]] = {}  # by the index of the layer that the stage precedes
        if pruning is not None:
            self._stages = {stage.after: (number, stage) for number, stage in enumerate(pruning.stages)}
            self._rows = pruning.raters(embeddings, prompt)
        self._total = prompt.num_vision
        self._rotation = model.rotation(embeddings, prompt.positions)
        self._attention: torch.Tensor | None = None  # [r, n] of the previous layer, if the next stage needs it

    def layer(self, index: int) -> None:
        read = self.hidden
        self.hidden = self._model.run_layer(index, read, self._rotation, self.cache)
        if (found := self._stages.get(index + 1)) is not None and found[1].rated_by == index:
            keys = self.cache.keys(index)
            self._attention = self._model.attention_rows(index, read, self._rotation, self._rows, keys)

    def prune_before(self, index: int) -> None:
        if self._pruning is None or (found := self._stages.get(index)) is None:
            return
        number, stage = found
        if stage.rated_by == index:
            self._attention = self._model.attention_rows(index, self.hidden, self._rotation, self._rows, None)
        if self._attention is None:
            raise ValueError(f"stage after layer {stage.after} is rated by layer {stage.rated_by}; that is too far")
        self.segments.append(_Segment(index, _after(self.prompt)))
        self.hidden, self.prompt = self._pruning.reduce(
            number, self._attention, self.hidden, self.prompt, total=self._total
        )
        self._rotation = self._model.rotation(self.hidden, self.prompt.positions)
        self._attention = None


def _window_of(layer: Any) -> int | None:  # noqa: ANN401 - a decoder layer of the library, of any architecture
    """How many tokens a layer sees, itself included; None if it sees all. Decided as in the library's own model."""
    attention = layer.self_attn
    source = attention if hasattr(attention, "sliding_window") else attention.config
    window: int | None = getattr(source, "sliding_window", None)
    return window


def _after(prompt: PromptLayout) -> int:
    return int(prompt.positions[-1]) + 1
