"""Maps vision tower features to the language model's embeddings."""

import torch
from torch import nn
from transformers.models.llava_next.modeling_llava_next import LlavaNextMultiModalProjector
from visionsplit.model.checkpoint import Checkpoint
from visionsplit.wire.tensors import TokenTensor

from llm_service.replica.token_order import Order


class Projector(nn.Module):
    """The checkpoint's projector and newline embedding."""

    def __init__(self, checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype) -> None:
        """Load the weights.

        Raises:
            CheckpointError: a weight is missing or has another shape.
        """
        super().__init__()
        width = checkpoint.config.text_config.hidden_size
        with torch.device(device):
            self.multi_modal_projector = LlavaNextMultiModalProjector(checkpoint.config).to(dtype)
            self.image_newline = nn.Parameter(torch.empty(width, dtype=dtype))
        checkpoint.load_into(self, lambda name: name)
        self.requires_grad_(False).eval()

    @property
    def feature_size(self) -> int:
        """Width of the features that the projector takes."""
        return int(self.multi_modal_projector.linear_1.in_features)

    @torch.no_grad()
    def forward(self, features: TokenTensor, order: Order) -> torch.Tensor:
        """Project one image's kept tokens and put tokens and newlines in order.

        Args:
            features: [tokens, Dv] in wire format.
            order: [sequence] indices into the tokens, -1 for a newline.

        Returns:
            [sequence, Dl] in the model's type, on its device.
        """
        newline = self.image_newline
        rows = torch.from_numpy(features.to_float32()).to(newline.device, newline.dtype)  # [tokens, Dv]
        projected: torch.Tensor = self.multi_modal_projector(rows)  # [tokens, Dl]
        with_newline = torch.cat([projected, newline[None]])  # [tokens + 1, Dl]: index -1 is the newline
        return with_newline[torch.from_numpy(order).to(newline.device)]
