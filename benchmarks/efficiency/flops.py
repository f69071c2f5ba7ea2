"""Operations of a prefill: LLM-Viewer's closed form, which papers print, and a count of what the real modules multiply.

The closed form (LLM-Viewer, arXiv 2402.16363, as GlobalCom2's table uses it; batch 1, one token = one row):

    per layer   2n(4D^2 + 3Dm)  projections and MLP      4n^2 D  attention's two products
                5An^2           softmax                  18nD    norms, residuals, activation
    once        DV              logits of one row, a product and a sum counted as one operation

PyTorch's FlopCounterMode counts products of matrices, 2 operations for each element of a product, and nothing else. So
it finds the first line and 2DV, and the two differ by exactly L(5An^2 + 18nD) - DV. Neither halves the attention of a
causal prompt, though kernels such as FlashAttention skip most of the blocks above the diagonal.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, LlavaNextConfig
from transformers.initialization import no_init_weights
from transformers.models.llava_next.modeling_llava_next import LlavaNextMultiModalProjector
from visionsplit.families.llava_next.vision_tower import VisionTower

from encoder_service.compression import TowerOutput

_META = torch.device("meta")


@dataclass(frozen=True)
class LlamaShape:
    """What the closed form needs of a Llama without grouped queries."""

    layers: int  # L
    width: int  # D
    intermediate: int  # m
    heads: int  # A
    vocabulary: int  # V

    def config(self) -> LlamaConfig:
        """The transformers library's configuration of the same shape."""
        return LlamaConfig(
            hidden_size=self.width,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            vocab_size=self.vocabulary,
            max_position_embeddings=4096,
        )


LLAMA_2_7B = LlamaShape(layers=32, width=4096, intermediate=11008, heads=32, vocabulary=32000)
LLAMA_2_13B = LlamaShape(layers=40, width=5120, intermediate=13824, heads=40, vocabulary=32000)


@dataclass(frozen=True)
class ClosedForm:
    """The terms of the closed form, in operations."""

    projections: int  # with the MLP
    attention: int  # its two products, causal or not
    softmax: int
    elementwise: int
    logits: int

    @property
    def total(self) -> int:
        return self.projections + self.attention + self.softmax + self.elementwise + self.logits

    @property
    def products(self) -> int:
        """What a counter of matrix products finds: both operations of the logits, no softmax, nothing elementwise."""
        return self.projections + self.attention + 2 * self.logits


def closed_form(shape: LlamaShape, layer_tokens: Sequence[int]) -> ClosedForm:
    """Operations of a prefill whose layers see `layer_tokens` tokens, one number for each of them.

    Raises:
        ValueError: there is not one number for each layer.
    """
    if len(layer_tokens) != shape.layers:
        raise ValueError(f"{len(layer_tokens)} lengths for {shape.layers} layers")
    tokens, squares = sum(layer_tokens), sum(n * n for n in layer_tokens)
    return ClosedForm(
        projections=2 * tokens * (4 * shape.width**2 + 3 * shape.width * shape.intermediate),
        attention=4 * squares * shape.width,
        softmax=5 * shape.heads * squares,
        elementwise=18 * tokens * shape.width,
        logits=shape.width * shape.vocabulary,
    )


def flop_counter() -> FlopCounterMode:
    """A counter of matrix products that also knows PyTorch's attention kernel for CPUs, which its own table lacks."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={kernel: _attention_products})


def counted_prefill(config: LlamaConfig, tokens: int) -> int:
    """Operations that FlopCounterMode finds in a prefill with the logits of the last row alone.

    The modules are the transformers library's own, on the meta device: nothing is allocated or computed.
    """
    with no_init_weights(), _META:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    embeddings = torch.empty(1, tokens, config.hidden_size, dtype=torch.bfloat16, device=_META)  # [1, n, D]
    with torch.no_grad(), flop_counter() as counter:
        model(inputs_embeds=embeddings, use_cache=True, logits_to_keep=1)
    return int(counter.get_total_flops())


def counted_tower(config: LlavaNextConfig, tiles: int, wanted: frozenset[TowerOutput]) -> int:
    """The same for this project's vision tower on some tiles; `wanted` adds what scores ask of it."""
    tower = VisionTower(config, dtype=torch.bfloat16, device=_META)
    size = config.vision_config.image_size
    with flop_counter() as counter:
        tower(torch.empty(tiles, 3, size, size, device=_META), wanted)  # [T, 3, H, W]
    return int(counter.get_total_flops())


def counted_projector(config: LlavaNextConfig, tokens: int) -> int:
    """The same for the projector on some kept tokens; newlines do not pass it."""
    with _META:
        projector = LlavaNextMultiModalProjector(config)
        features = torch.empty(tokens, config.vision_config.hidden_size)  # [K, Dv]
    with torch.no_grad(), flop_counter() as counter:
        projector(features)
    return int(counter.get_total_flops())


def _attention_products(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object
) -> int:
    """Operations of attention's two products from the shapes [B, H, tokens, d], causal or not."""
    batch, heads, rows, size = query
    return 2 * batch * heads * rows * key[2] * (size + value[3])
