"""Small random-weight CLIP checkpoints whose vision part is that of a LLaVA-NeXT checkpoint."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import CLIPConfig, CLIPModel, LlavaNextForConditionalGeneration, PreTrainedTokenizerFast

from tests.checkpoints import tiny_checkpoint

PIECE = 12  # tokens that the text tower reads at once


def tiny_clip(
    folder: Path, llava: Path, *, seed: int = 0, text: dict[str, Any] | None = None, **saving: object
) -> Path:
    """Write a float32 CLIP checkpoint with its tokenizer into `folder` and return it.

    `text` overrides fields of the text part's configuration, `saving` goes to `save_pretrained`.
    """
    model = LlavaNextForConditionalGeneration.from_pretrained(llava)
    tokenizer = _tokenizer(llava)
    text_config = {
        "vocab_size": len(tokenizer),
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": PIECE,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "pad_token_id": 0,
        **(text or {}),
    }
    config = CLIPConfig(text_config=text_config, vision_config=model.config.vision_config.to_dict(), projection_dim=20)
    torch.manual_seed(seed)
    clip = CLIPModel(config).float().eval()
    with torch.no_grad():
        for parameter in clip.parameters():  # the norms' too, so that leaving one out shows
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.4)
    clip.vision_model.load_state_dict(model.model.vision_tower.state_dict())
    with torch.no_grad():
        clip.vision_model.post_layernorm.weight.normal_(1.0, 0.3)
        clip.vision_model.post_layernorm.bias.normal_(0.0, 0.3)
    clip.save_pretrained(folder, **saving)
    tokenizer.save_pretrained(folder)
    return folder


def llava_and_clip(folder: Path, **llava: Any) -> tuple[Path, Path]:
    """A LLaVA-NeXT checkpoint and the CLIP checkpoint of its vision tower."""
    model = tiny_checkpoint(folder / "llava", **llava)
    return model, tiny_clip(folder / "clip", model)


def _tokenizer(llava: Path) -> PreTrainedTokenizerFast:
    """The language model's, which ends each text as CLIP's does."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(llava)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    return tokenizer
