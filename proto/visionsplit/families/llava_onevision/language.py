"""LLaVA-OneVision's part in the LLM service."""

import torch
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionMultiModalProjector

from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.language_half import ConnectorHalf
from visionsplit.families.llava_onevision.settings import is_pooled
from visionsplit.grid import TileGrid


class LlavaOnevisionLanguage(ConnectorHalf):
    """The checkpoint's connector and newline embedding. Tokens of pooled images have been through the connector."""

    def __init__(self, checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(checkpoint, LlavaOnevisionMultiModalProjector, newline=True, device=device, dtype=dtype)

    def connects(self, grid: TileGrid) -> bool:
        return super().connects(grid) and not is_pooled(grid)
