"""SmolVLM and Idefics3 without PyTorch: names of tensors, and the order of tokens."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from visionsplit.families.base import Family, Order, Settings
from visionsplit.families.tensor_names import Rules, renamed
from visionsplit.families.token_order import tile_orders
from visionsplit.grid import TileGrid
from visionsplit.options.layout import Layout
from visionsplit.wire.vision_tokens import Positions

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from visionsplit.families.checkpoint import Checkpoint
    from visionsplit.families.encoder_half import EncoderHalf
    from visionsplit.families.language_half import LanguageHalf
    from visionsplit.families.prompt_images import PromptImages
    from visionsplit.families.tiler import Tiler

_NAMES: Rules = (
    (re.compile(r"^vision_model\.(.+)$"), r"vision_tower.\1"),
    (re.compile(r"^connector\.(.+)$"), r"multi_modal_projector.\1"),
    (re.compile(r"^text_model\.(.+)$"), r"language_model.model.\1"),
    (re.compile(r"^lm_head\.(.+)$"), r"language_model.lm_head.\1"),
)


class SmolVlm(Family):
    """One run for each tile: the crops one after the other, then the thumbnail."""

    name = "smolvlm"
    model_types = ("smolvlm", "idefics3")

    def canonical_name(self, key: str) -> str:
        return renamed(key, _NAMES)

    def num_runs(self, grid: TileGrid) -> int:
        return grid.num_tiles

    def runs(self, grid: TileGrid, positions: Positions, layout: Layout) -> list[Order]:
        return tile_orders(grid, positions)

    def settings(self, fields: Mapping[str, Any]) -> Settings:
        from visionsplit.families.smolvlm.settings import SmolVlmSettings

        return SmolVlmSettings(fields)

    def tiler(self, checkpoint: "Checkpoint") -> "Tiler":
        from visionsplit.families.smolvlm.tiler import SmolVlmTiler

        return SmolVlmTiler(checkpoint)

    def encoder_half(self, checkpoint: "Checkpoint", *, dtype: "torch.dtype", device: "torch.device") -> "EncoderHalf":
        from visionsplit.families.smolvlm.encoder import SmolVlmEncoder

        return SmolVlmEncoder(checkpoint, dtype=dtype, device=device)

    def language_half(
        self, checkpoint: "Checkpoint", *, dtype: "torch.dtype", device: "torch.device"
    ) -> "LanguageHalf":
        from visionsplit.families.smolvlm.language import SmolVlmLanguage

        return SmolVlmLanguage(checkpoint, device=device, dtype=dtype)

    def prompt_images(self, checkpoint: "Checkpoint", tokenizer: "PreTrainedTokenizerBase") -> "PromptImages":
        from visionsplit.families.smolvlm.language import SmolVlmImages

        return SmolVlmImages(checkpoint, tokenizer)
