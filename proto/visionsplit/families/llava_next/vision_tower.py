"""Computes features and scores of tiles with the part of a CLIP vision tower that LLaVA-NeXT uses.

The features come from an earlier layer (usually the penultimate), so of the last layer only the input norm and the
projections to queries and keys are held, for the scores; values, output, MLP and final norm are never allocated.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig, LlavaNextConfig
from transformers.models.clip.modeling_clip import CLIPEncoderLayer, CLIPVisionEmbeddings

from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.encoder_half import EncoderHalf
from visionsplit.families.llava_next.cls_attention import ClsScoreHead, cls_attention, patch_keys
from visionsplit.families.llava_next.settings import feature_layers
from visionsplit.families.sample_levels import SampleLevels, levels_of
from visionsplit.families.tower_outputs import TileFeatures, TowerOutput


class VisionTower(EncoderHalf):
    """CLIP's vision transformer up to the layers that features and scores need."""

    outputs = frozenset(TowerOutput) - {TowerOutput.TEXT_RELEVANCE}

    def __init__(self, config: LlavaNextConfig, *, dtype: torch.dtype, device: torch.device) -> None:
        """Allocate the modules without initialising them; `config` has been accepted by `Checkpoint`."""
        super().__init__()
        vision = _clip_config(config)
        self._vision_config = config.vision_config.to_dict()
        self.device, self.dtype = device, dtype
        self.feature_layers = feature_layers(config)
        self.feature_size = vision.hidden_size * len(self.feature_layers)
        # The layer whose attention and keys methods ask for: the one that puts the features out. Where the features are
        # of several layers it is the deepest, which has seen most of the tower. The order in which a checkpoint lists
        # them says only how the projector reads them.
        self._feature_layer = max(*self.feature_layers, 1)
        self._score_layer = vision.num_hidden_layers - 1  # the scores read the hidden state of this index
        with torch.device("meta"):
            self.levels = SampleLevels()
            self.embeddings = CLIPVisionEmbeddings(vision)
            self.pre_layrnorm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
            depth = max(*self.feature_layers, self._score_layer)
            self.layers = nn.ModuleList(CLIPEncoderLayer(vision) for _ in range(depth))
            score_head = ClsScoreHead(vision)
        self.to(dtype).to_empty(device=device)
        # This buffer is not a weight, so no checkpoint contains it; allocating without initialising left it undefined.
        positions = torch.arange(self.embeddings.num_positions, device=device)[None]
        self.embeddings.position_ids = positions  # [1, 1 + P]
        self.score_head = score_head.to_empty(device=device)  # stays float32, since half precision would create ties

    @classmethod
    def load(cls, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> "VisionTower":
        """Build the tower and read its weights, but no other tensor of the checkpoint.

        Raises:
            CheckpointError: a tensor is missing or has another shape.
        """
        tower = cls(checkpoint.config, dtype=dtype, device=device)
        last_layer = f"vision_tower.encoder.layers.{tower._score_layer}."
        checkpoint.load_into(tower, lambda name: _tensor_name(name, last_layer))
        tower.levels.fill(
            levels_of(
                checkpoint.image_processor(),
                image_grid_pinpoints=[[256, 256]],
                crop_size={"height": 256, "width": 256},
            )
        )
        return tower.eval().requires_grad_(False)

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"vision_config": self._vision_config, "feature_layers": self.feature_layers}

    @torch.inference_mode()
    def forward(self, tiles: torch.Tensor, wanted: frozenset[TowerOutput]) -> TileFeatures:
        """Encode tiles; a cell is a patch. See `EncoderHalf.forward`."""
        pixels = self.levels(tiles) if tiles.dtype is torch.uint8 else tiles.to(self.dtype)
        states = {0: self.pre_layrnorm(self.embeddings(pixels))}  # [B, 1 + P, D]
        depth = max(*self.feature_layers, self._score_layer if wanted else 0)
        state = states[0]
        for index, layer in enumerate(self.layers[:depth], start=1):
            state = layer(state, None)
            if index in self.feature_layers or index in (self._score_layer, self._feature_layer - 1):
                states[index] = state
        selected = [states[index][:, 1:] for index in self.feature_layers]  # each [B, P, D]
        features = selected[0] if len(selected) == 1 else torch.cat(selected, dim=-1)
        return TileFeatures(features, {output: self._output(output, states) for output in wanted})

    def _output(self, output: TowerOutput, states: dict[int, torch.Tensor]) -> torch.Tensor:
        """An output for a part of a compression method, [B, P, ...] float32."""
        last = states[self._score_layer]
        match output:
            case TowerOutput.SALIENCE:
                logits: torch.Tensor = self.score_head(last)
                return logits
            case TowerOutput.CLS_AFFINITY:
                return self.score_head.affinity(last)
            case TowerOutput.LAST_KEYS:
                return self.score_head.keys(last)
            case TowerOutput.CLS_ATTENTION:
                return cls_attention(self.layers[self._feature_layer - 1], states[self._feature_layer - 1])
            case TowerOutput.CLS_ATTENTION_FIRST:
                return cls_attention(self.layers[0], states[0])
            case TowerOutput.KEYS:
                return patch_keys(self.layers[self._feature_layer - 1], states[self._feature_layer - 1])
            case TowerOutput.TEXT_RELEVANCE:
                raise ValueError("what is relevant to a text is for the text tower to say")


def _tensor_name(name: str, last_layer: str) -> str:
    """The checkpoint's name of a tensor of the tower; the score head's tensors belong to the last layer."""
    if name.startswith("score_head."):
        part = name.removeprefix("score_head.")
        return last_layer + (part if part.startswith("layer_norm1.") else f"self_attn.{part}")
    return f"vision_tower.encoder.{name}" if name.startswith("layers.") else f"vision_tower.{name}"


def _clip_config(config: LlavaNextConfig) -> CLIPVisionConfig:
    own = CLIPVisionConfig.from_dict(config.vision_config.to_dict())
    own._attn_implementation = "sdpa"
    return own
