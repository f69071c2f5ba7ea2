"""The checkpoint: LLaVA-NeXT's classes at a small size, in Hugging Face's format."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    PreTrainedTokenizerBase,
)

from training.model.tokenizer import CHAT_TEMPLATE
from training.scenes.lots import GRIDS


@dataclass(frozen=True)
class Architecture:
    """The sizes of the model."""

    tile: int = 168  # pixels
    patch: int = 14  # pixels
    vision_width: int = 256
    vision_layers: int = 6
    text_width: int = 256
    text_layers: int = 6
    text_hidden: int = 768
    heads: int = 8

    @property
    def side(self) -> int:
        """Patches along a tile's edge."""
        return self.tile // self.patch


def new_model(architecture: Architecture, tokenizer: PreTrainedTokenizerBase) -> LlavaNextForConditionalGeneration:
    """Create the model with random weights, float32."""
    width, text_width = architecture.vision_width, architecture.text_width
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=architecture.vision_layers,
            num_attention_heads=architecture.heads,
            image_size=architecture.tile,
            patch_size=architecture.patch,
            hidden_act="gelu",
        ).to_dict(),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=text_width,
            intermediate_size=architecture.text_hidden,
            num_hidden_layers=architecture.text_layers,
            num_attention_heads=architecture.heads,
            num_key_value_heads=architecture.heads,
            max_position_embeddings=4096,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints(architecture),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=architecture.side**2,
        tie_word_embeddings=False,
    )
    return LlavaNextForConditionalGeneration(config).float()


def pinpoints(architecture: Architecture) -> list[list[int]]:
    """Height and width of each canvas, pixels."""
    return [[rows * architecture.tile, columns * architecture.tile] for rows, columns in GRIDS]


def image_processor(architecture: Architecture) -> LlavaNextImageProcessorPil:
    """Create the image processor for this architecture."""
    tile = architecture.tile
    return LlavaNextImageProcessorPil(
        size={"shortest_edge": tile},
        crop_size={"height": tile, "width": tile},
        image_grid_pinpoints=pinpoints(architecture),
    )


def save_checkpoint(
    folder: Path,
    model: LlavaNextForConditionalGeneration,
    architecture: Architecture,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Write weights (bfloat16), configuration, processor, tokenizer and chat template; `model` is left bfloat16."""
    processor = LlavaNextProcessor(
        image_processor=image_processor(architecture),
        tokenizer=tokenizer,
        patch_size=architecture.patch,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,  # [CLS], which the features do not include
    )
    processor.save_pretrained(folder)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.max_new_tokens = None
    model.to(torch.bfloat16).save_pretrained(folder)
