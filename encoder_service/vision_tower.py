"""Tiles to features and scores: the part of a CLIP vision tower that LLaVA-NeXT uses, and nothing more.

The features come from an earlier layer (usually the penultimate), so of the last layer only the input norm and the
projections to queries and keys are held, for the scores; values, output, MLP and final norm are never allocated.
"""

import torch
from torch import nn
from transformers import CLIPVisionConfig, LlavaNextConfig
from transformers.models.clip.modeling_clip import CLIPEncoderLayer, CLIPVisionEmbeddings
from visionsplit.checkpoint import Checkpoint, CheckpointError

from encoder_service.cls_attention import ClsScoreHead, cls_attention, patch_keys
from encoder_service.compression.features import TileFeatures, TowerOutput


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
        self._feature_layer = max(self.feature_layers[-1], 1)  # the layer that puts the features out
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
        """Encode tiles [B, 3, H, W]; ``wanted` names what the compressions need beside the features."""
        states = {0: self.pre_layrnorm(self.embeddings(tiles.to(self.dtype)))}  # [B, 1 + P, D]
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
        """What a part of a compression method asked for, [B, P, ...] float32."""
        last = states[self._score_layer]
        match output:
            case TowerOutput.CLS_LOGITS:
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
