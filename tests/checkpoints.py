"""Creates small random-weight LLaVA-NeXT checkpoints in Hugging Face's format."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

SPECIAL_TOKENS = ["<pad>", "<unk>", "<s>", "</s>", "<image>"]
TILE_PIXELS = 56
PATCH_PIXELS = 14
PINPOINTS = [[112, 112], [56, 112], [112, 56], [56, 168], [168, 56]]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + m['role']) }}{% endif %}{{ m['role'] | upper }}: "
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% if m['role'] == 'assistant' %}</s>{% else %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_TEXT_CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}


def tiny_checkpoint(
    folder: Path,
    text: str = "llama",
    *,
    seed: int = 0,
    pinpoints: list[list[int]] | None = None,
    vision: dict[str, Any] | None = None,
    language: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a checkpoint with tokenizer, processor and chat template into `folder` and return it.

    `text` names the language backbone: "llama", "mistral" or "qwen2". `vision`, `language` and `model` override
    fields of the three configurations. `device` is where the weights are drawn.
    """
    tokenizer = _byte_level_tokenizer() if text == "qwen2" else _byte_fallback_tokenizer()
    grid_pinpoints = pinpoints or PINPOINTS
    vision_config = CLIPVisionConfig(
        **{
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": TILE_PIXELS,
            "patch_size": PATCH_PIXELS,
            "projection_dim": 32,
            **(vision or {}),
        }
    )
    text_config = _TEXT_CONFIGS[text](
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "max_position_embeddings": 1024,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "pad_token_id": 0,
            **(language or {}),
        }
    )
    config = LlavaNextConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_grid_pinpoints=grid_pinpoints,
        **{"image_token_index": 4, "tie_word_embeddings": False, **(model or {})},
    )
    torch.manual_seed(seed)
    with torch.device(device):
        network = LlavaNextForConditionalGeneration(config).to(dtype).eval()
    _spread_weights(network)
    network.generation_config = GenerationConfig(bos_token_id=2, eos_token_id=3, pad_token_id=0, do_sample=False)
    network.save_pretrained(folder)
    _processor(tokenizer, vision_config, grid_pinpoints).save_pretrained(folder)
    return folder


def _spread_weights(network: LlavaNextForConditionalGeneration) -> None:
    """Make the answer depend on the prompt: with the usual small initial weights every prompt repeats one token."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.6 if "embed_tokens" in name else 1.2 / parameter.shape[-1] ** 0.5)


def _processor(
    tokenizer: PreTrainedTokenizerFast, vision: CLIPVisionConfig, pinpoints: list[list[int]]
) -> LlavaNextProcessor:
    image_processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": vision.image_size},
        crop_size={"height": vision.image_size, "width": vision.image_size},
        image_grid_pinpoints=pinpoints,
    )
    return LlavaNextProcessor(
        image_processor,
        tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def _byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """GPT-2's way, as Qwen2's: every byte is one printable character, so a character may span several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(SPECIAL_TOKENS + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _wrap(tokenizer)


def _byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """SentencePiece's way, as Llama's: letters are tokens, other characters fall back to bytes, prompts get <s>."""
    letters = [chr(code) for code in range(33, 127)] + ["▁", "\n"]
    vocabulary = {t: i for i, t in enumerate(SPECIAL_TOKENS + [f"<0x{byte:02X}>" for byte in range(256)] + letters)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    return _wrap(tokenizer)


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
