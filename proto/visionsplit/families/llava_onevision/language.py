"""LLaVA-OneVision's part in the LLM service: the connector where the encoder did not run it, and the newline."""

import torch
from torch import nn
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionMultiModalProjector

from visionsplit.families.base import Order
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.language_half import LanguageHalf, rows_on
from visionsplit.families.llava_onevision.settings import is_pooled
from visionsplit.grid import TileGrid
from visionsplit.wire.tensors import TokenTensor


class LlavaOnevisionLanguage(LanguageHalf):
    """The checkpoint's connector and newline embedding."""

    def __init__(self, checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype) -> None:
        """Load the weights.

        Raises:
            CheckpointError: a weight is missing or has another shape.
        """
        super().__init__()
        self.multi_modal_projector: nn.Module | None = None
        with torch.device(device):
            if not checkpoint.settings.connector_in_encoder:
                self.multi_modal_projector = LlavaOnevisionMultiModalProjector(checkpoint.config).to(dtype)
            self.image_newline = nn.Parameter(torch.empty(checkpoint.config.text_config.hidden_size, dtype=dtype))
        checkpoint.load_into(self, lambda name: name)
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, features: TokenTensor, grid: TileGrid, order: Order) -> torch.Tensor:
        newline = self.image_newline
        rows = rows_on(features, newline.device, newline.dtype)  # [tokens, width]
        if self.multi_modal_projector is not None and not is_pooled(grid):
            rows = self.multi_modal_projector(rows)  # [tokens, Dl]
        with_newline = torch.cat([rows, newline[None]])  # [tokens + 1, Dl]: index -1 is the newline
        return with_newline[torch.from_numpy(order).to(newline.device)]
