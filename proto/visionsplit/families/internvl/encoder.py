"""InternVL's vision half: InternViT, its [CLS] attention, and the connector where that makes tokens narrower."""

import math
from collections.abc import Mapping

import torch
from torch import nn
from transformers.models.internvl.modeling_internvl import (
    InternVLMultiModalProjector,
    InternVLVisionEmbeddings,
    InternVLVisionLayer,
)

from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.encoder_half import PatchTower
from visionsplit.families.internvl.settings import InternVLSettings
from visionsplit.families.tiled_canvas import processor_levels
from visionsplit.families.tower_outputs import TowerOutput


class InternVLEncoder(PatchTower):
    """InternViT. The last layer puts the features out, so its attention is also that of the features' layer."""

    outputs = frozenset(TowerOutput) - {TowerOutput.TEXT_RELEVANCE}

    def __init__(self, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> None:
        """Load the weights.

        Raises:
            CheckpointError: a tensor is missing or has another shape.
        """
        settings = checkpoint.settings
        assert isinstance(settings, InternVLSettings)
        super().__init__(checkpoint, block=settings.block, dtype=dtype, device=device)
        with torch.device("meta"):
            self.embeddings = InternVLVisionEmbeddings(self.vision)
            self.layer = nn.ModuleList(InternVLVisionLayer(self.vision) for _ in range(self.vision.num_hidden_layers))
            if settings.connector_in_encoder:
                self.connector = InternVLMultiModalProjector(checkpoint.config)
        self.place()
        self.read_weights(checkpoint, processor_levels(checkpoint.image_processor()), layers="layer.")

    def encode(
        self, pixels: torch.Tensor, wanted: frozenset[TowerOutput]
    ) -> tuple[torch.Tensor, Mapping[TowerOutput, torch.Tensor]]:
        first, last, state = self._states(pixels)
        attention = _Attention(self.layer[-1], last) if wanted - {TowerOutput.CLS_ATTENTION_FIRST} else None
        outputs = {}
        for output in wanted:
            used = _Attention(self.layer[0], first) if output is TowerOutput.CLS_ATTENTION_FIRST else attention
            assert used is not None, "made for every other output"
            outputs[output] = used.output(output)  # [B, p * p, ...]
        return state[:, 1:], outputs

    def _states(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The inputs of the first and of the last layer, and the last layer's output, each [B, 1 + p * p, D]."""
        state = first = last = self.embeddings(pixels)
        for layer in self.layer:
            last = state
            state = layer(state)
        return first, last, state


class _Attention:
    """Queries of [CLS] and keys of all patches in one layer.

    In float32, since half precision would create ties. Keys are computed in full, which is below a hundredth of the
    tower's work: where they are normalised over all heads together, no shorter way exists. A tile's scores must not
    depend on the other tiles of its batch, so each tile has separate products; and since PyTorch computes a batch of
    one in another way, a single tile is computed twice.
    """

    def __init__(self, layer: InternVLVisionLayer, state: torch.Tensor) -> None:
        """`state` is the layer's input, [B, 1 + p, D]."""
        attention = layer.attention
        self._tiles, self._heads = len(state), attention.num_heads
        normed = layer.layernorm_before(state).float()
        normed = normed if len(normed) > 1 else normed.expand(2, -1, -1)
        self._query = attention.q_norm(_linear(normed[:, :1], attention.q_proj)).float()  # [B, 1, D]
        self._keys = attention.k_norm(_linear(normed, attention.k_proj)).float()  # [B, 1 + p, D]

    def output(self, output: TowerOutput) -> torch.Tensor:
        """An output for patches, [B, p, ...] float32."""
        width = self._keys.shape[-1]
        values: torch.Tensor
        match output:
            case TowerOutput.SALIENCE:
                values = self._products()[:, 1:] / (self._heads * math.sqrt(width // self._heads))
            case TowerOutput.CLS_AFFINITY:
                values = (self._products() / math.sqrt(width)).softmax(dim=1)[:, 1:]
            case TowerOutput.CLS_ATTENTION | TowerOutput.CLS_ATTENTION_FIRST:
                values = self._attention()[:, 1:]
            case TowerOutput.LAST_KEYS:
                values = self._keys[:, 1:]
            case TowerOutput.KEYS:
                values = self._by_head(self._keys[:, 1:]).mean(dim=2)
            case TowerOutput.TEXT_RELEVANCE:
                raise ValueError("what is relevant to a text is for the text tower to say")
        return values[: self._tiles]

    def _products(self) -> torch.Tensor:
        """q . k over the full width, [B, 1 + p]."""
        return torch.bmm(self._keys, self._query.transpose(1, 2)).squeeze(2)

    def _attention(self) -> torch.Tensor:
        """Attention after the softmax, mean over heads, [B, 1 + p]."""
        size = self._keys.shape[-1] // self._heads
        query = self._by_head(self._query).transpose(1, 2).flatten(0, 1)  # [B * H, 1, d]
        keys = self._by_head(self._keys).transpose(1, 2).flatten(0, 1)  # [B * H, 1 + p, d]
        logits = torch.bmm(keys, query.transpose(1, 2)).squeeze(2) / math.sqrt(size)  # [B * H, 1 + p]
        return logits.softmax(dim=1).view(-1, self._heads, logits.shape[1]).mean(dim=1)

    def _by_head(self, values: torch.Tensor) -> torch.Tensor:
        """[B, n, D] as [B, n, H, d]."""
        return values.reshape(*values.shape[:2], self._heads, -1)


def _linear(values: torch.Tensor, projection: nn.Linear) -> torch.Tensor:
    """A projection in float32 with separate products for each tile, [B, n, K] of [B, n, D]."""
    weights = projection.weight.float().t().expand(len(values), -1, -1)
    product = torch.bmm(values, weights)
    return product if projection.bias is None else product + projection.bias.float()
