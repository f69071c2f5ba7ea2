"""The attention of [CLS] in one layer of the vision tower, computed from the layer's input without an attention map.

A score is q . k with k = W x + b, which is (W^T q) . x + q . b: W is applied to the one query instead of every patch.

A tile's scores must not depend on the other tiles of its batch, to the last bit. So each tile has separate products;
and since PyTorch computes a batch of one in another way, a single tile is computed twice, as a batch of two.
"""

import math

import torch
from torch import nn
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPEncoderLayer


class ClsScoreHead(nn.Module):
    """The last layer's input norm, queries and keys, which are the only parts of it that are computed."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        size, heads = config.hidden_size, config.num_attention_heads
        self.layer_norm1 = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(size, size)
        self._scale = 1.0 / (heads * math.sqrt(size // heads))

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Pre-softmax attention of [CLS] to each patch, mean over heads, [B, P] float32, from [B, 1 + P, D].

        The mean over H heads of size d of (q_h . k_h) / sqrt(d) is q . k / (H sqrt(d)) over the full width.
        """
        logits: torch.Tensor = self._products(state)[:, 1:] * self._scale
        return logits

    def affinity(self, state: torch.Tensor) -> torch.Tensor:
        """Softmax over [CLS] and patches of q_cls . k / sqrt(D), as if there were one head; patches only, [B, P]."""
        products = self._products(state) / math.sqrt(state.shape[-1])  # [B, 1 + P]
        return products.softmax(dim=1)[:, 1:]

    def keys(self, state: torch.Tensor) -> torch.Tensor:
        """The patches' keys, all heads side by side, [B, P, D] float32."""
        return _keys(self.layer_norm1(_at_least_two_rows(state)), self.k_proj.weight, self.k_proj.bias)[: len(state)]

    def _products(self, state: torch.Tensor) -> torch.Tensor:
        """q_cls . k over the full width, [B, 1 + P]."""
        normed = self.layer_norm1(_at_least_two_rows(state))  # [B, 1 + P, D]
        query = _query(normed, self.q_proj)  # [B, 1, D]
        toward = torch.bmm(query, self.k_proj.weight.expand(len(normed), -1, -1))  # [B, 1, D]
        offset = (query * self.k_proj.bias).sum(dim=2)  # [B, 1]
        products: torch.Tensor = torch.bmm(normed, toward.transpose(1, 2)).squeeze(2) + offset  # [B, 1 + P]
        return products[: len(state)]


def cls_attention(layer: CLIPEncoderLayer, state: torch.Tensor) -> torch.Tensor:
    """Attention of [CLS] to each patch after the softmax, mean over heads, [B, P] float32.

    Args:
        layer: a layer of the tower, in any type.
        state: its input, [B, 1 + P, D].
    """
    attention = layer.self_attn
    normed = _at_least_two_rows(layer.layer_norm1(state))  # [B, 1 + P, D]
    tiles, _, width = normed.shape
    heads, size = attention.num_heads, attention.head_dim
    query = _query(normed, attention.q_proj).view(tiles * heads, 1, size)  # [B * H, 1, d]
    weight = attention.k_proj.weight.float().view(heads, size, width).repeat(tiles, 1, 1)  # [B * H, d, D]
    toward = torch.bmm(query, weight).view(tiles, heads, width)  # [B, H, D]
    bias = attention.k_proj.bias.float().view(heads, size)
    offset = (query.view(tiles, heads, size) * bias).sum(dim=2, keepdim=True)  # [B, H, 1]
    logits: torch.Tensor = (torch.bmm(toward, normed.transpose(1, 2)) + offset) / math.sqrt(size)  # [B, H, 1 + P]
    return logits.softmax(dim=2).mean(dim=1)[: len(state), 1:]


def patch_keys(layer: CLIPEncoderLayer, state: torch.Tensor) -> torch.Tensor:
    """The patches' keys of a layer, mean over H heads, [B, P, D / H] float32, from its input [B, 1 + P, D].

    The mean of the heads' keys is the key of the heads' mean weights.
    """
    heads, projection = layer.self_attn.num_heads, layer.self_attn.k_proj
    normed = _at_least_two_rows(layer.layer_norm1(state))
    weight = projection.weight.float().unflatten(0, (heads, -1)).mean(dim=0)  # [D / H, D]
    bias = projection.bias.float().unflatten(0, (heads, -1)).mean(dim=0)  # [D / H]
    return _keys(normed, weight, bias)[: len(state)]


def _at_least_two_rows(state: torch.Tensor) -> torch.Tensor:
    """The same in float32, since half precision would create ties; a single tile is repeated to two rows."""
    return state.float() if len(state) > 1 else state.float().expand(2, -1, -1)


def _query(normed: torch.Tensor, projection: nn.Linear) -> torch.Tensor:
    """The query of [CLS], [B, 1, D]."""
    weight = projection.weight.float().t().expand(len(normed), -1, -1)
    return torch.baddbmm(projection.bias.float().expand(len(normed), 1, -1), normed[:, :1], weight)


def _keys(normed: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The patches' keys, [B, P, K], by a projection's weight [K, D] and bias [K]."""
    weights = weight.float().t().expand(len(normed), -1, -1)
    return torch.baddbmm(bias.float().expand(len(normed), 1, -1), normed[:, 1:], weights)
