"""Aya Vision without PyTorch: names of tensors, and the order of tokens."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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


class AyaVision(Family):
    """One run for each tile: the crops one after the other, then the thumbnail."""

    name = "aya_vision"
    model_types = ("aya_vision",)

    def canonical_name(self, key: str) -> str:
        return renamed(key, LLAVA_NAMES)

    def num_runs(self, grid: TileGrid) -> int:
        return grid.num_tiles

    def runs(self, grid: TileGrid, positions: Positions, layout: Layout) -> list[Order]:
        return tile_orders(grid, positions)

    def settings(self, fields: Mapping[str, Any]) -> Settings:
        from visionsplit.families.aya_vision.settings import AyaVisionSettings

        return AyaVisionSettings(fields)

    def tiler(self, checkpoint: "Checkpoint") -> "Tiler":
        from visionsplit.families.tiled_canvas import TiledCanvasTiler

        return TiledCanvasTiler(checkpoint)

    def encoder_half(self, checkpoint: "Checkpoint", *, dtype: "torch.dtype", device: "torch.device") -> "EncoderHalf":
        from visionsplit.families.aya_vision.encoder import AyaVisionEncoder

        return AyaVisionEncoder(checkpoint, dtype=dtype, device=device)

    def language_half(
        self, checkpoint: "Checkpoint", *, dtype: "torch.dtype", device: "torch.device"
    ) -> "LanguageHalf":
        from visionsplit.families.aya_vision.language import AyaVisionLanguage

        return AyaVisionLanguage(checkpoint, device=device, dtype=dtype)

    def prompt_images(self, checkpoint: "Checkpoint", tokenizer: "PreTrainedTokenizerBase") -> "PromptImages":
        from visionsplit.families.aya_vision.language import AyaVisionImages

        return AyaVisionImages(checkpoint, tokenizer)
