"""InternVL's part in the LLM service: the connector where the encoder does not run it, and its prompts."""

import torch
from transformers import PreTrainedTokenizerBase
from transformers.models.internvl.modeling_internvl import InternVLMultiModalProjector

from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.language_half import ConnectorHalf
from visionsplit.families.prompt_images import SinglePlaceholder
from visionsplit.grid import TileGrid


class InternVLLanguage(ConnectorHalf):
    """The connector where the encoder does not run it."""

    def __init__(self, checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(checkpoint, InternVLMultiModalProjector, device=device, dtype=dtype)


class InternVLImages(SinglePlaceholder):
    """An image is one run between two markers."""

    attribute = "context_image_token"

    def __init__(self, checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(checkpoint, tokenizer)
        self._start = getattr(tokenizer, "start_image_token", "<img>")
        self._end = getattr(tokenizer, "end_image_token", "</img>")

    def expand(self, grid: TileGrid) -> str:
        return f"{self._start}{self.token}{self._end}"
