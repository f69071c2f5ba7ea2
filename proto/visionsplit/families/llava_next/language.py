"""Maps vision tower features to the language model's embeddings."""

import torch
from torch import nn
from transformers.models.llava_next.modeling_llava_next import LlavaNextMultiModalProjector

from visionsplit.families.base import Order
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.language_half import LanguageHalf, rows_on
from visionsplit.grid import TileGrid
from visionsplit.wire.tensors import TokenTensor


class Projector(LanguageHalf):
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

    @torch.no_grad()
    def forward(self, features: TokenTensor, grid: TileGrid, order: Order) -> torch.Tensor:
        newline = self.image_newline
        rows = rows_on(features, newline.device, newline.dtype)  # [tokens, Dv]
        projected: torch.Tensor = self.multi_modal_projector(rows)  # [tokens, Dl]
        with_newline = torch.cat([projected, newline[None]])  # [tokens + 1, Dl]: index -1 is the newline
        return with_newline[torch.from_numpy(order).to(newline.device)]
