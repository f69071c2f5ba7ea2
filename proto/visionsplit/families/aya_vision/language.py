"""Aya Vision's part in the LLM service: the connector where the encoder does not run it, and its prompts."""

import torch
from transformers import PreTrainedTokenizerBase
from transformers.models.aya_vision.modeling_aya_vision import AyaVisionMultiModalProjector

from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.language_half import ConnectorHalf
from visionsplit.families.prompt_images import PromptImages, token_text
from visionsplit.grid import TileGrid


class Connector(AyaVisionMultiModalProjector):  # type: ignore[misc]  # the library's classes are untyped
    """The library's connector for cells whose blocks of patches have been joined already."""

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        """Embed cells [K, Dv], [K, Dl]."""
        values, gate = self.linear_1(self.layernorm(cells)).chunk(2, dim=-1)
        embedded: torch.Tensor = self.linear_2(self.act(gate) * values)
        return embedded


class AyaVisionLanguage(ConnectorHalf):
    """The connector where the encoder does not run it."""

    def __init__(self, checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(checkpoint, Connector, device=device, dtype=dtype)


class AyaVisionImages(PromptImages):
    """Each tile is a run behind its number, all between two markers. The placeholder is not the vision token."""

    placeholder = "<image>"

    def __init__(self, checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> None:
        """
        Raises:
            CheckpointError: the tokenizer does not know the configuration's image token.
        """
        self.token_id = checkpoint.settings.image_token_id
        self.token = token_text(checkpoint, tokenizer, self.token_id)

    def expand(self, grid: TileGrid) -> str:
        crops = "".join(f"TILE_{tile}{self.token}" for tile in range(1, grid.num_tiles))
        return f"<|START_OF_IMG|>{crops}TILE_GLOBAL{self.token}<|END_OF_IMG|>"
