"""The measured models: shapes with random weights, and the shipped checkpoint."""

from collections.abc import Callable

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig, LlavaNextImageProcessorPil
from visionsplit.families.checkpoint import Checkpoint

from benchmarks.efficiency.flops import LLAMA_2_7B, LLAMA_2_13B
from benchmarks.shapes import CLIP_L, SHIPPED, llava_next

_VOCABULARY = 32064  # Vicuna's 32,000 and LLaVA's own, padded to a multiple of 64
# LLaVA-NeXT's tiles and hence its 2880 tokens, with 51 million weights.
_SMALL_VISION = CLIPVisionConfig(
    hidden_size=256,
    intermediate_size=1024,
    num_hidden_layers=6,
    num_attention_heads=8,
    image_size=336,
    patch_size=14,
    hidden_act="quick_gelu",
)
_SMALL_TEXT = LlamaConfig(
    hidden_size=384,
    intermediate_size=1024,
    num_hidden_layers=12,
    num_attention_heads=6,
    vocab_size=32000,
    max_position_embeddings=4096,
)


class RandomCheckpoint(Checkpoint):
    """A checkpoint of a given shape whose weights are generated on the device instead of read."""

    def __init__(self, name: str, config: LlavaNextConfig) -> None:
        self.source, self.revision, self.name, self.config = name, None, name, config

    def image_processor(self) -> LlavaNextImageProcessorPil:
        tile = self.config.vision_config.image_size
        return LlavaNextImageProcessorPil(
            size={"shortest_edge": tile},
            crop_size={"height": tile, "width": tile},
            image_grid_pinpoints=self.config.image_grid_pinpoints,
        )

    def load_into(
        self, module: torch.nn.Module, tensor_name: Callable[[str], str], *, unused: Callable[[str], bool] | None = None
    ) -> None:
        """Draw matrices, N(0, 0.02); norms and other vectors are ones, biases zeros."""
        torch.manual_seed(0)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.02)
                else:
                    parameter.fill_(0.0 if name.endswith("bias") else 1.0)


def checkpoint(name: str) -> Checkpoint:
    """A model by its name in `TIME_SHARES`, not loaded.

    Raises:
        CheckpointError: the shipped checkpoint cannot be read.
    """
    if name == "mini":
        return Checkpoint(str(SHIPPED))
    if name == "50m":
        return RandomCheckpoint("50M weights, LLaVA-NeXT's tiles, random", llava_next(_SMALL_VISION, _SMALL_TEXT))
    shape = {"7b": LLAMA_2_7B, "13b": LLAMA_2_13B}[name].config()
    shape.vocab_size = _VOCABULARY
    return RandomCheckpoint(f"LLaVA-NeXT-{name.upper()}, random weights", llava_next(CLIP_L, shape))


SMALL = ("mini", "50m")  # measured on a CPU in every run
LARGE = ("7b", "13b")  # measured only on a GPU
# Every shape, and its share of a limited time.
TIME_SHARES = {"mini": 1, "50m": 3, "7b": 3, "13b": 3}
