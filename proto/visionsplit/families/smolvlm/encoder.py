"""The vision half of SmolVLM and Idefics3: a tower like SigLIP's with all its layers, and the connector."""

import torch
from torch import nn
from transformers.models.idefics3.modeling_idefics3 import Idefics3EncoderLayer, Idefics3VisionEmbeddings
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMEncoderLayer, SmolVLMVisionEmbeddings

from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.encoder_half import CosineTower
from visionsplit.families.sample_levels import levels_of
from visionsplit.families.smolvlm.language import make_connector
from visionsplit.families.smolvlm.settings import SmolVlmSettings


class SmolVlmEncoder(CosineTower):
    """The tower; its last norm belongs to the features."""

    def __init__(self, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> None:
        """Load the weights.

        Raises:
            CheckpointError: a tensor is missing or has another shape.
        """
        settings = checkpoint.settings
        assert isinstance(settings, SmolVlmSettings)
        super().__init__(checkpoint, block=settings.block, dtype=dtype, device=device)
        embeddings = Idefics3VisionEmbeddings if settings.is_idefics3 else SmolVLMVisionEmbeddings
        layer = Idefics3EncoderLayer if settings.is_idefics3 else SmolVLMEncoderLayer
        with torch.device("meta"):
            self.embeddings = embeddings(self.vision)
            self.layers = nn.ModuleList(layer(self.vision) for _ in range(self.vision.num_hidden_layers))
            self.post_layernorm = nn.LayerNorm(self.vision.hidden_size, eps=self.vision.layer_norm_eps)
            if settings.connector_in_encoder:
                self.connector = make_connector(checkpoint.config)
        self.place()
        size = {"longest_edge": 256}
        levels = levels_of(checkpoint.image_processor(), size=size, max_image_size=size, do_image_splitting=False)
        self.read_weights(checkpoint, levels)

    def patches(self, pixels: torch.Tensor) -> torch.Tensor:
        side = self.embeddings.num_patches_per_side
        every = torch.ones(len(pixels), side, side, dtype=torch.bool, device=pixels.device)  # patch shows image
        state = self.embeddings(pixels, every)  # [B, p * p, D]
        for layer in self.layers:
            state = layer(state, None)
        normed: torch.Tensor = self.post_layernorm(state)
        return normed
