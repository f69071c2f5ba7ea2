"""The part of SmolVLM and Idefics3 in the LLM service: the connector where the encoder does not run it, and prompts."""

import torch
from torch import nn
from transformers import Idefics3Config, PreTrainedTokenizerBase, SmolVLMConfig

from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.language_half import ConnectorHalf
from visionsplit.families.prompt_images import SinglePlaceholder
from visionsplit.grid import TileGrid


class SmolVlmLanguage(ConnectorHalf):
    """The connector where the encoder does not run it."""

    def __init__(self, checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(checkpoint, make_connector, device=device, dtype=dtype)


class SmolVlmImages(SinglePlaceholder):
    """Each tile is a run behind a marker of its row and column.

    The newline behind the last row of crops and the one before the thumbnail are one token in these tokenizers, so the
    text of an image must be tokenised as a whole.
    """

    def __init__(self, checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(checkpoint, tokenizer)
        self._around = getattr(tokenizer, "fake_image_token", "<fake_token_around_image>")
        self._global = getattr(tokenizer, "global_image_token", "<global-img>")

    def expand(self, grid: TileGrid) -> str:
        rows = [
            "".join(f"{self._around}<row_{row + 1}_col_{column + 1}>{self.token}" for column in range(grid.columns))
            for row in range(grid.rows)
        ]
        crops = "".join(f"{row}\n" for row in rows) + ("\n" if rows else "")
        return f"{crops}{self._around}{self._global}{self.token}{self._around}"


def make_connector(config: Idefics3Config | SmolVLMConfig) -> nn.Linear:
    """The connector's module without weights, on the present device."""
    tower_size = config.vision_config.hidden_size * config.scale_factor**2
    return nn.Linear(tower_size, config.text_config.hidden_size, bias=False)
