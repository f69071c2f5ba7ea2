"""LLaVA-NeXT without PyTorch: names of tensors, and the order of tokens."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from visionsplit.families.base import Family, Order, Settings
from visionsplit.families.tensor_names import LLAVA_NAMES, renamed
from visionsplit.families.token_order import canvas_order
from visionsplit.grid import TileGrid
from visionsplit.options.layout import LAYOUTS, Layout
from visionsplit.wire.vision_tokens import Positions

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from visionsplit.families.checkpoint import Checkpoint
    from visionsplit.families.encoder_half import EncoderHalf
    from visionsplit.families.language_half import LanguageHalf
    from visionsplit.families.prompt_images import PromptImages
    from visionsplit.families.tiler import Tiler


class LlavaNext(Family):
    """The family of the GlobalCom2 paper."""

    name = "llava_next"
    model_types = ("llava_next",)
    layouts = LAYOUTS
    whole_cell_regions = True
    clip_tower = True

    def canonical_name(self, key: str) -> str:
        return renamed(key, LLAVA_NAMES)

    def num_newlines(self, grid: TileGrid, layout: Layout) -> int:
        return grid.valid.height if layout == "spatial" else grid.canvas_height

    def runs(self, grid: TileGrid, positions: Positions, layout: Layout) -> list[Order]:
        return [canvas_order(grid, positions, layout)]

    def settings(self, fields: Mapping[str, Any]) -> Settings:
        from visionsplit.families.llava_next.settings import LlavaNextSettings

        return LlavaNextSettings(fields)

    def tiler(self, checkpoint: "Checkpoint") -> "Tiler":
        from visionsplit.families.padded_canvas import PaddedCanvasTiler

        return PaddedCanvasTiler(checkpoint)

    def encoder_half(self, checkpoint: "Checkpoint", *, dtype: "torch.dtype", device: "torch.device") -> "EncoderHalf":
        from visionsplit.families.llava_next.vision_tower import VisionTower

        return VisionTower.load(checkpoint, dtype=dtype, device=device)

    def language_half(
        self, checkpoint: "Checkpoint", *, dtype: "torch.dtype", device: "torch.device"
    ) -> "LanguageHalf":
        from visionsplit.families.llava_next.language import Projector

        return Projector(checkpoint, device=device, dtype=dtype)

    def prompt_images(self, checkpoint: "Checkpoint", tokenizer: "PreTrainedTokenizerBase") -> "PromptImages":
        from visionsplit.families.prompt_images import SinglePlaceholder

        return SinglePlaceholder(checkpoint, tokenizer)
