"""LLaVA-NeXT's part in the LLM service."""

import torch
from transformers.models.llava_next.modeling_llava_next import LlavaNextMultiModalProjector

from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.language_half import ConnectorHalf


class Projector(ConnectorHalf):
    """The checkpoint's projector and newline embedding."""

    def __init__(self, checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(checkpoint, LlavaNextMultiModalProjector, newline=True, device=device, dtype=dtype)
