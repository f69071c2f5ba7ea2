"""Creates small random-weight checkpoints of every family, with the library's whole model to compare with.

The library's processors of families with a video part need torchvision. Here they are constructed without their video
part, which they then do not use.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    AyaVisionProcessor,
    GenerationConfig,
    GotOcr2ImageProcessorPil,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
    SmolVLMProcessor,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.smolvlm import processing_smolvlm
from transformers.processing_utils import ProcessorMixin

VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
# With sizes of heads that vLLM's CPU kernels have.
TEXT = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 32},
    **{"num_key_value_heads": 1, "max_position_embeddings": 4096, "bos_token_id": None, "eos_token_id": None},
    "pad_token_id": 0,
}
# "\n\n" and "\n\n\n" are tokens, as in the tokenizers of Llama 3 and Qwen.
_MERGES = [("Ċ", "Ċ"), ("ĊĊ", "Ċ")]
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}PLACEHOLDER\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class WholeFamilyModel:
    """A checkpoint, and the library's whole model of it."""

    path: Path
    model: PreTrainedModel
    processor: Any
    placeholder: str  # of an image in a prompt
    nested: bool = False  # whether the processor takes the images of one prompt as a list in a list

    def inputs(self, prompt: str, images: Sequence[Image.Image]) -> Any:
        """What the processor makes of a prompt and its images."""
        pictures = list(images)
        given = ([pictures] if self.nested and len(pictures) > 1 else pictures) or None
        return self.processor(text=prompt, images=given, return_tensors="pt")

    @torch.no_grad()
    def generate(self, prompt: str, images: Sequence[Image.Image], max_new_tokens: int) -> tuple[int, ...]:
        """The greedily generated token ids of a finished prompt."""
        return self._continue(self.inputs(prompt, images), max_new_tokens)

    @torch.no_grad()
    def generate_from(
        self, prompt: str, images: Sequence[Image.Image], kept: torch.Tensor, max_new_tokens: int
    ) -> tuple[int, ...]:
        """The same from some of the images' features.

        Args:
            prompt: with placeholders.
            images: of the prompt.
            kept: [n] bool, which of the prompt's image tokens stay, in their order.
            max_new_tokens: to generate.
        """
        inputs = self.inputs(prompt, images)
        text = ("input_ids", "attention_mask")
        features = self.model.get_image_features(**{k: v for k, v in inputs.items() if k not in text}).pooler_output
        rows = torch.cat([part.flatten(0, -2) for part in features])[kept]  # [k, Dl]
        ids = inputs["input_ids"][0]
        stays = torch.ones_like(ids, dtype=torch.bool)
        stays[ids == self.image_token_id] = kept
        # What the model itself puts out: older versions of the library have a tensor where this one has a list.
        as_list = isinstance(features, (list, tuple))
        given = {"image": BaseModelOutputWithPooling(pooler_output=[rows] if as_list else rows[None])}
        short = {"input_ids": ids[stays][None], "attention_mask": torch.ones(1, int(stays.sum()), dtype=torch.long)}
        return self._continue({**short, "mm_encoder_outputs": given}, max_new_tokens)

    @property
    def image_token_id(self) -> int:
        return int(self.model.config.image_token_id)

    def _continue(self, inputs: Any, max_new_tokens: int) -> tuple[int, ...]:
        output = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        return tuple(output[0, inputs["input_ids"].shape[1] :].tolist())


def internvl(
    folder: Path,
    text: str = "qwen2",
    *,
    qk_norm: bool = False,
    vision: dict[str, Any] | None = None,
    language: dict[str, Any] | None = None,
) -> WholeFamilyModel:
    """Tiles of 56 pixels with 8 x 8 patches, 4 x 4 cells; at most 6 crops."""
    names = {
        **{"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"},
        "video_token": "<video>",
    }
    tokenizer = _tokenizer(["<IMG_CONTEXT>", "<img>", "</img>", "<video>"], "<IMG_CONTEXT>", **names)
    config = InternVLConfig(
        vision_config={
            **VISION,
            **{"image_size": [56, 56], "patch_size": [7, 7], "use_qk_norm": qk_norm, "attention_bias": not qk_norm},
            **{"norm_type": "rms_norm" if qk_norm else "layer_norm", **(vision or {})},
        },
        text_config=_text(text, tokenizer, **(language or {})),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    images = GotOcr2ImageProcessorPil(size={"height": 56, "width": 56}, max_patches=6)
    with _without_video():
        processor = InternVLProcessor(images, tokenizer, None, image_seq_length=16)
    model = InternVLForConditionalGeneration(config)
    return WholeFamilyModel(_save(folder, model, tokenizer, images), model, processor, "<IMG_CONTEXT>")


def smolvlm(folder: Path, kind: str = "smolvlm", *, language: dict[str, Any] | None = None) -> WholeFamilyModel:
    """Tiles of 56 pixels with 8 x 8 patches, 4 x 4 cells; the longest edge is 3 tiles. `kind` may be "idefics3"."""
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    special = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *rows]
    tokenizer = _tokenizer(special, "<image>")
    sizes = {"size": {"longest_edge": 168}, "max_image_size": {"longest_edge": 56}}
    config_of, model_of, images_of = {
        "smolvlm": (SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMImageProcessorPil),
        "idefics3": (Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessorPil),
    }[kind]
    config = config_of(
        vision_config={**VISION, "image_size": 56, "patch_size": 7},
        text_config=_text("llama", tokenizer, **(language or {})),
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    images = images_of(**sizes)
    processing_smolvlm.num2words = str  # of the processor's video part; the library's own package is not needed here
    with _without_video():
        processor = (
            SmolVLMProcessor(images, tokenizer, None, image_seq_len=16)
            if kind == "smolvlm"
            else Idefics3Processor(images, tokenizer, image_seq_len=16)
        )
    model = model_of(config)
    return WholeFamilyModel(_save(folder, model, tokenizer, images), model, processor, "<image>", nested=True)


def llava_onevision(
    folder: Path, *, vision: dict[str, Any] | None = None, language: dict[str, Any] | None = None
) -> WholeFamilyModel:
    """Tiles of 48 pixels with 6 x 6 cells; up to 6 x 6 crops, pooled to about 4 tiles' cells."""
    tokenizer = _tokenizer(["<image>", "<video>"], "<image>", image_token="<image>", video_token="<video>")
    pinpoints = [[48 * rows, 48 * columns] for rows in range(1, 7) for columns in range(1, 7)]
    config = LlavaOnevisionConfig(
        vision_config={
            **VISION,
            **{"model_type": "siglip_vision_model", "image_size": 48, "patch_size": 8, "vision_use_head": False},
            **(vision or {}),
        },
        text_config=_text("qwen2", tokenizer, **(language or {})),
        image_grid_pinpoints=pinpoints,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        vision_aspect_ratio="anyres_max_4",
    )
    images = LlavaOnevisionImageProcessorPil(size={"height": 48, "width": 48}, image_grid_pinpoints=pinpoints)
    with _without_video():
        processor = LlavaOnevisionProcessor(
            *(images, tokenizer, None),
            num_image_tokens=36,
            vision_feature_select_strategy="full",
            vision_aspect_ratio="anyres_max_4",
        )
    model = LlavaOnevisionForConditionalGeneration(config)
    return WholeFamilyModel(_save(folder, model, tokenizer, images), model, processor, "<image>", nested=True)


def aya_vision(
    folder: Path, *, tiles_are_tokens: bool = True, language: dict[str, Any] | None = None
) -> WholeFamilyModel:
    """Tiles of 56 pixels with 8 x 8 patches, 4 x 4 cells; at most 6 crops."""
    tiles = [*(f"TILE_{tile}" for tile in range(1, 13)), "TILE_GLOBAL"] if tiles_are_tokens else []
    markers = ["<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_LINE_BREAK|>", *tiles]
    tokenizer = _tokenizer(["<image>", "<|IMG_PATCH|>", *markers], "<image>")
    config = AyaVisionConfig(
        vision_config={
            **VISION,
            **{"model_type": "siglip_vision_model", "image_size": 56, "patch_size": 7, "vision_use_head": False},
        },
        text_config=_text(
            "cohere2",
            tokenizer,
            **{"num_hidden_layers": 4, "sliding_window": 32, "logit_scale": 0.25, **(language or {})},
        ),
        alignment_intermediate_size=40,
        downsample_factor=2,
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
    )
    images = GotOcr2ImageProcessorPil(size={"height": 56, "width": 56}, max_patches=6, crop_to_patches=True)
    processor = AyaVisionProcessor(images, tokenizer, patch_size=14, img_size=56)
    model = AyaVisionForConditionalGeneration(config)
    return WholeFamilyModel(_save(folder, model, tokenizer, images), model, processor, "<image>")


def _text(kind: str, tokenizer: PreTrainedTokenizerFast, **fields: Any) -> dict[str, Any]:
    return {"model_type": kind, **TEXT, "vocab_size": len(tokenizer), **fields}


def _tokenizer(special: list[str], placeholder: str, **named: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE whose newlines merge; `named` become `tokenizer.NAME`."""
    words = ["<pad>", "<|im_start|>", "<|im_end|>", *special]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: index for index, piece in enumerate([*words, *alphabet, "ĊĊ", "ĊĊĊ"])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=_MERGES))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in words])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", extra_special_tokens=named)
    tokenizer.chat_template = _TEMPLATE.replace("PLACEHOLDER", placeholder)
    return tokenizer


def _save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, images: Any) -> Path:
    model.eval()
    _randomise(model)
    model.generation_config = GenerationConfig(pad_token_id=0, do_sample=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images.save_pretrained(folder)
    return folder


@torch.no_grad()
def _randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Draw weights with which every part matters; the library's own first weights have zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.empty_like(parameter).normal_(generator=generator)
        if "norm" in name and name.endswith("weight"):
            parameter.copy_(1 + 0.2 * noise)
        elif parameter.ndim >= 2 and not any(part in name for part in ("embed", "position", "cls")):
            parameter.copy_(noise * 1.6 / math.sqrt(parameter[0].numel()))
        else:
            parameter.copy_(0.5 * noise)


@contextmanager
def _without_video() -> Iterator[None]:
    """Let a processor be constructed without its video part, which does not import without torchvision."""
    checked = ProcessorMixin.check_argument_for_proper_class
    ProcessorMixin.check_argument_for_proper_class = lambda self, name, argument: None
    try:
        yield
    finally:
        ProcessorMixin.check_argument_for_proper_class = checked
