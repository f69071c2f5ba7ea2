"""The models that benchmarks measure: the checkpoint that ships, and the shape of LLaVA-NeXT's vision tower."""

from pathlib import Path

from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig

SHIPPED = Path(__file__).parents[1] / "models" / "visionsplit-mini"
# CLIP ViT-L/14 at 336 pixels, LLaVA-NeXT's vision tower
CLIP_L = CLIPVisionConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    image_size=336,
    patch_size=14,
    hidden_act="quick_gelu",
)
_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]  # LLaVA-NeXT's, height and width


def llava_next(vision: CLIPVisionConfig, text: LlamaConfig) -> LlavaNextConfig:
    """LLaVA-NeXT's configuration around the two halves, with its five grids."""
    return LlavaNextConfig(vision_config=vision, text_config=text, image_grid_pinpoints=_PINPOINTS)
