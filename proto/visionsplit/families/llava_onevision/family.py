"""LLaVA-OneVision without PyTorch: names of tensors, and the order of tokens."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from visionsplit.families.base import Family, Order, Settings
from visionsplit.families.tensor_names import LLAVA_NAMES, renamed
from visionsplit.families.token_order import NEWLINE, canvas_order
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


class LlavaOnevision(Family):
    """The second family of the GlobalCom2 paper. One run for each image, as with LLaVA-NeXT."""

    name = "llava_onevision"
    model_types = ("llava_onevision",)

    def canonical_name(self, key: str) -> str:
        return renamed(key, LLAVA_NAMES)

    def num_newlines(self, grid: TileGrid, layout: Layout) -> int:
        return grid.valid.height if grid.num_crops else 1

    def runs(self, grid: TileGrid, positions: Positions, layout: Layout) -> list[Order]:
        order = canvas_order(grid, positions, "spatial")
        return [order if grid.num_crops else np.append(order, NEWLINE)]

    def settings(self, fields: Mapping[str, Any]) -> Settings:
        from visionsplit.families.llava_onevision.settings import LlavaOnevisionSettings

        return LlavaOnevisionSettings(fields)

    def tiler(self, checkpoint: "Checkpoint") -> "Tiler":
        from visionsplit.families.llava_onevision.tiler import LlavaOnevisionTiler

        return LlavaOnevisionTiler(checkpoint)

    def encoder_half(self, checkpoint: "Checkpoint", *, dtype: "torch.dtype", device: "torch.device") -> "EncoderHalf":
        from visionsplit.families.llava_onevision.encoder import LlavaOnevisionEncoder

        return LlavaOnevisionEncoder(checkpoint, dtype=dtype, device=device)

    def language_half(
        self, checkpoint: "Checkpoint", *, dtype: "torch.dtype", device: "torch.device"
    ) -> "LanguageHalf":
        from visionsplit.families.llava_onevision.language import LlavaOnevisionLanguage

        return LlavaOnevisionLanguage(checkpoint, device=device, dtype=dtype)

    def prompt_images(self, checkpoint: "Checkpoint", tokenizer: "PreTrainedTokenizerBase") -> "PromptImages":
        from visionsplit.families.prompt_images import SinglePlaceholder

        return SinglePlaceholder(checkpoint, tokenizer)
