"""The closed form gives the published figures, and the counter agrees with it except for what it does not count."""

import pytest
import torch
from transformers import AutoModelForCausalLM, CLIPVisionConfig

from benchmarks.efficiency.flops import (
    LLAMA_2_7B,
    LLAMA_2_13B,
    LlamaShape,
    closed_form,
    counted_prefill,
    counted_tower,
    flop_counter,
)
from benchmarks.efficiency.operations import choices, entering_tokens
from benchmarks.shapes import CLIP_L, llava_next

pytestmark = pytest.mark.unit

# GlobalCom2's poster, LLaVA-NeXT-7B and 13B at 100, 75, 50, 25 and 10% of 2880 tokens.
POSTER_7B = {2880: 41.70, 2160: 30.45, 1440: 19.75, 720: 9.60, 288: 3.77}
POSTER_13B = {2880: 79.95, 288: 7.38}
TINY = LlamaShape(layers=3, width=32, intermediate=48, heads=4, vocabulary=100)


@pytest.mark.parametrize(("tokens", "teraflops"), POSTER_7B.items())
def test_the_closed_form_gives_the_posters_figures_for_7b(tokens: int, teraflops: float) -> None:
    assert round(closed_form(LLAMA_2_7B, [tokens] * 32).total / 1e12, 2) == teraflops


@pytest.mark.parametrize(("tokens", "teraflops"), POSTER_13B.items())
def test_the_closed_form_gives_the_posters_figures_for_13b(tokens: int, teraflops: float) -> None:
    assert round(closed_form(LLAMA_2_13B, [tokens] * 40).total / 1e12, 2) == teraflops


def test_layers_of_different_lengths_are_summed_one_by_one() -> None:
    lengths = [50, 20, 7]
    total = TINY.width * TINY.vocabulary
    for n in lengths:
        total += 2 * n * (4 * TINY.width**2 + 3 * TINY.width * TINY.intermediate) + 4 * n * n * TINY.width
        total += 5 * TINY.heads * n * n + 18 * n * TINY.width
    assert closed_form(TINY, lengths).total == total


def test_a_length_for_each_layer_is_needed() -> None:
    with pytest.raises(ValueError, match="2 lengths for 3 layers"):
        closed_form(TINY, [1, 2])


@pytest.mark.parametrize("shape", [LLAMA_2_7B, LLAMA_2_13B], ids=["7B", "13B"])
@pytest.mark.parametrize("tokens", [2880, 288])
def test_the_counter_on_the_real_modules_agrees_within_two_percent(shape: LlamaShape, tokens: int) -> None:
    formula = closed_form(shape, [tokens] * shape.layers)
    counted = counted_prefill(shape.config(), tokens)
    assert counted == pytest.approx(formula.total, rel=0.02)
    # The rest is softmax and elementwise work, which are no products, less the logits' second half.
    softmax = shape.layers * 5 * shape.heads * tokens**2
    elementwise = shape.layers * 18 * tokens * shape.width
    assert formula.total - counted == softmax + elementwise - shape.width * shape.vocabulary
    assert counted == formula.products


def test_a_prefill_that_runs_on_the_cpu_counts_like_one_on_the_meta_device() -> None:
    model = AutoModelForCausalLM.from_config(TINY.config(), attn_implementation="sdpa").eval()
    with torch.inference_mode(), flop_counter() as counter:
        model(inputs_embeds=torch.randn(1, 40, TINY.width), use_cache=True, logits_to_keep=1)
    assert counter.get_total_flops() == counted_prefill(TINY.config(), 40) == closed_form(TINY, [40] * 3).products


def test_the_vision_tower_counts_its_layers_products() -> None:
    width, rows = 1024, 577
    layer = 2 * rows * (4 * width**2 + 2 * width * 4096) + 4 * rows**2 * width
    patches = 2 * 576 * width * 3 * 14 * 14
    config = llava_next(CLIP_L, LLAMA_2_7B.config())
    assert counted_tower(config, 5, frozenset()) == 5 * (23 * layer + patches)


def test_globalcom2_needs_two_products_of_one_query_a_tile_and_one_with_the_patches() -> None:
    width, cells = 128, 64
    vision = CLIPVisionConfig(hidden_size=width, num_attention_heads=4, image_size=112, patch_size=14)
    head = 5 * (2 * 2 * width * width + 2 * cells * width)
    assert dict(choices(vision, ["globalcom2"]))["globalcom2"] == pytest.approx(head, rel=0.01)


def test_tokens_that_enter_the_language_model_count_truncated_tiles_and_newlines() -> None:
    assert [entering_tokens(ratio) for ratio in (1.0, 0.5, 0.25, 0.1)] == [2928, 1488, 768, 333]
