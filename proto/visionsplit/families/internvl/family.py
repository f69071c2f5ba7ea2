"""InternVL without PyTorch: names of tensors, and the order of tokens."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from visionsplit.families.base import Family, Order, Settings
from visionsplit.families.tensor_names import LLAVA_NAMES, renamed
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


class InternVL(Family):
    """One run for each image: the crops one after the other, each row by row, then the thumbnail."""

    name = "internvl"
    model_types = ("internvl",)

    def canonical_name(self, key: str) -> str:
        return renamed(key, LLAVA_NAMES)

    def runs(self, grid: TileGrid, positions: Positions, layout: Layout) -> list[Order]:
        return [np.concatenate(tile_orders(grid, positions))]

    def settings(self, fields: Mapping[str, Any]) -> Settings:
        from visionsplit.families.internvl.settings import InternVLSettings

        return InternVLSettings(fields)

    def tiler(self, checkpoint: "Checkpoint") -> "Tiler":
        from visionsplit.families.tiled_canvas import TiledCanvasTiler

        return TiledCanvasTiler(checkpoint)

    def encoder_half(self, checkpoint: "Checkpoint", *, dtype: "torch.dtype", device: "torch.device") -> "EncoderHalf":
        from visionsplit.families.internvl.encoder import InternVLEncoder

        return InternVLEncoder(checkpoint, dtype=dtype, device=device)

    def language_half(
        self, checkpoint: "Checkpoint", *, dtype: "torch.dtype", device: "torch.device"
    ) -> "LanguageHalf":
        from visionsplit.families.internvl.language import InternVLLanguage

        return InternVLLanguage(checkpoint, device=device, dtype=dtype)

    def prompt_images(self, checkpoint: "Checkpoint", tokenizer: "PreTrainedTokenizerBase") -> "PromptImages":
        from visionsplit.families.internvl.language import InternVLImages

        return InternVLImages(checkpoint, tokenizer)
