"""Tiles to features and scores: the part of a CLIP vision tower that LLaVA-NeXT uses, and nothing more.

The features come from an earlier layer (usually the penultimate), so of the last layer only the input norm and the
projections to queries and keys are held, for the scores; values, output, MLP and final norm are never allocated.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import CLIPVisionConfig, LlavaNextConfig
from transformers.models.clip.modeling_clip import CLIPEncoderLayer, CLIPVisionEmbeddings
from visionsplit.checkpoint import Checkpoint, CheckpointError

from encoder_service.compression.base import TowerOutput


@dataclass(frozen=True)
class TileFeatures:
    """What the vision tower says about B tiles of P cells."""

    features: torch.Tensor  # [B, P, Dv]
    outputs: dict[TowerOutput, torch.Tensor]  # what the scores asked for; CLS_LOGITS: [B, P] float32


class VisionTower(nn.Module):
    """CLIP's vision transformer up to the layers that the features and the scores need."""

    def __init__(self, config: LlavaNextConfig, *, dtype: torch.dtype, device: torch.device) -> None:
        """Allocate the modules, uninitialised.

        Raises:
            CheckpointError: the vision tower is not CLIP's, or the features are not the patches without [CLS].
        """
        super().__init__()
        vision = _clip_config(config)
        self.device, self.dtype = device, dtype
        self.feature_layers = _feature_layers(config, vision.num_hidden_layers)
        self.feature_size = vision.hidden_size * len(self.feature_layers)
        self._score_layer = vision.num_hidden_layers - 1  # whose input the scores read: hidden state of this index
        with torch.device("meta"):
            self.embeddings = CLIPVisionEmbeddings(vision)
            self.pre_layrnorm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
            depth = max(*self.feature_layers, self._score_layer)
            self.layers = nn.ModuleList(CLIPEncoderLayer(vision) for _ in range(depth))
            score_head = ClsScoreHead(vision)
        self.to(dtype).to_empty(device=device)
        # Not a weight, so no checkpoint has it; allocating without initialising has left it undefined.
        positions = torch.arange(self.embeddings.num_positions, device=device)[None]
        self.embeddings.position_ids = positions  # [1, 1 + P]
        self.score_head = score_head.to_empty(device=device)  # stays float32: half precision would make ties

    @classmethod
    def load(cls, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> "VisionTower":
        """Build the tower and read its weights, and no other tensor of the checkpoint.

        Raises:
            CheckpointError: see `__init__`; or a tensor is missing or has another shape.
        """
        tower = cls(checkpoint.config, dtype=dtype, device=device)
        last_layer = f"vision_tower.encoder.layers.{tower._score_layer}."
        checkpoint.load_into(tower, lambda name: _tensor_name(name, last_layer))
        return tower.eval().requires_grad_(False)

    @torch.inference_mode()
    def forward(self, tiles: torch.Tensor, wanted: frozenset[TowerOutput]) -> TileFeatures:
        """Encode tiles [B, 3, H, W]; `wanted` names what the scores need."""
        states = {0: self.pre_layrnorm(self.embeddings(tiles.to(self.dtype)))}  # [B, 1 + P, D]
        depth = max(*self.feature_layers, self._score_layer if wanted else 0)
        state = states[0]
        for index, layer in enumerate(self.layers[:depth], start=1):
            state = layer(state, None)
            if index in self.feature_layers or index == self._score_layer:
                states[index] = state
        selected = [states[index][:, 1:] for index in self.feature_layers]  # each [B, P, D]
        features = selected[0] if len(selected) == 1 else torch.cat(selected, dim=-1)
        outputs = {}
        if TowerOutput.CLS_LOGITS in wanted:
            outputs[TowerOutput.CLS_LOGITS] = self.score_head(states[self._score_layer])
        return TileFeatures(features, outputs)


class ClsScoreHead(nn.Module):
    """Pre-softmax attention of [CLS] to each patch in one layer, mean over heads, without the attention map.

    The mean over H heads of size d of (q_h . k_h) / sqrt(d) is q . k / (H sqrt(d)) over the full width. And q . k with
    k = W x + b is (W^T q) . x + q . b: W is applied to one query instead of every patch.
    """

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        size, heads = config.hidden_size, config.num_attention_heads
        self.layer_norm1 = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(size, size)
        self._scale = 1.0 / (heads * math.sqrt(size // heads))

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Scores [B, P] float32 from the layer's input [B, 1 + P, D]."""
        # How a tile is scored must not depend on its company in the batch, to the last bit. So each tile has products
        # of its own; and since PyTorch computes a batch of one in another way, a single tile keeps itself company.
        batch = state.float() if len(state) > 1 else state.float().expand(2, -1, -1)
        normed = self.layer_norm1(batch)  # [B, 1 + P, D]
        tiles = len(normed)
        weight, bias = self.q_proj.weight.t().expand(tiles, -1, -1), self.q_proj.bias.expand(tiles, 1, -1)
        query = torch.baddbmm(bias, normed[:, :1], weight)  # [B, 1, D]
        toward = torch.bmm(query, self.k_proj.weight.expand(tiles, -1, -1))  # [B, 1, D]
        offset = (query * self.k_proj.bias).sum(dim=2)  # [B, 1]
        products = torch.bmm(normed[:, 1:], toward.transpose(1, 2)).squeeze(2)  # [B, P]
        scores: torch.Tensor = (products + offset) * self._scale
        return scores[: len(state)]


def _tensor_name(name: str, last_layer: str) -> str:
    """The checkpoint's name of a tensor of the tower; the score head's belong to the last layer."""
    if name.startswith("score_head."):
        part = name.removeprefix("score_head.")
        return last_layer + (part if part.startswith("layer_norm1.") else f"self_attn.{part}")
    return f"vision_tower.encoder.{name}" if name.startswith("layers.") else f"vision_tower.{name}"


def _clip_config(config: LlavaNextConfig) -> CLIPVisionConfig:
    vision = config.vision_config
    if vision.model_type != "clip_vision_model":
        raise CheckpointError(f"the vision tower is {vision.model_type!r}; 'clip_vision_model' is needed")
    if config.vision_feature_select_strategy != "default":
        raise CheckpointError(
            f"vision_feature_select_strategy is {config.vision_feature_select_strategy!r}; "
            "'default' is needed, which leaves out [CLS]"
        )
    own = CLIPVisionConfig.from_dict(vision.to_dict())
    own._attn_implementation = "sdpa"
    return own


def _feature_layers(config: LlavaNextConfig, num_layers: int) -> tuple[int, ...]:
    """Indices of the hidden states that make the features, counted from 0, the embeddings."""
    given = config.vision_feature_layer
    indices = [given] if isinstance(given, int) else list(given)
    if not indices or not all(-num_layers - 1 <= index <= num_layers for index in indices):
        raise CheckpointError(f"vision_feature_layer is {given}; the vision tower has {num_layers} layers")
    return tuple(index % (num_layers + 1) for index in indices)
