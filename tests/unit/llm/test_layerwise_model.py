"""A decoder run layer by layer, against the library's own generation and full attention maps without a cache."""

import math
import threading
from functools import cache

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedModel,
    Qwen2Config,
)
from visionsplit.errors import InvalidPruningError, InvalidRequestError, PromptTooLongError
from visionsplit.options.prefill import Pruning

from llm_service.engines.continuous.slab import VirtualEmbedding
from llm_service.engines.layerwise.model import LayerwiseModel
from llm_service.pruning import ComposedPruning, PromptLayout, compose
from tests.unit.llm import reference_pruning as reference

LAYERS = 8
VOCABULARY = 120
BEFORE, VISION, AFTER = 5, 60, 9
COUNT = BEFORE + VISION + AFTER
BACKBONES = {
    "llama": (LlamaConfig, {}),
    "mistral": (MistralConfig, {"sliding_window": None}),
    "qwen2": (Qwen2Config, {}),
    # Windows shorter than the prompt: in every layer, and in the upper layers only.
    "mistral, windowed": (MistralConfig, {"sliding_window": 20}),
    "qwen2, windowed": (Qwen2Config, {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 3}),
}


@cache
def models(text: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The same weights with the library's own attention and with full maps."""
    pair = []
    config_class, settings = BACKBONES[text]
    for attention in ("sdpa", "eager"):
        config = config_class(
            vocab_size=VOCABULARY,
            hidden_size=48,
            intermediate_size=80,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            **settings,
        )
        torch.manual_seed(len(text))
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1.2 / parameter.shape[-1] ** 0.5)
        model.generation_config.eos_token_id = None
        pair.append(model)
    return pair[0], pair[1]


def prompt_parts(*, gaps: bool = False, quotas: list[int] | None = None) -> tuple[torch.Tensor, PromptLayout]:
    torch.manual_seed(7)
    embeddings = torch.randn(COUNT, 48)
    vision = torch.zeros(COUNT, dtype=torch.bool)
    vision[BEFORE : BEFORE + VISION] = True
    tiles = torch.full((COUNT,), -1)
    tiles[vision] = torch.arange(VISION) // 12 - 1  # twelve newlines, then four tiles
    steps = torch.ones(COUNT, dtype=torch.long)
    if gaps:
        steps[BEFORE:] += torch.arange(COUNT - BEFORE) % 3
    positions = steps.cumsum(0) - 1
    wanted = torch.tensor(quotas) if quotas is not None else None
    return embeddings, PromptLayout.of(vision, tiles=tiles, positions=positions, quotas=wanted)


def greedy(
    model: LayerwiseModel, embeddings: torch.Tensor, prompt: PromptLayout, pruning: ComposedPruning | None, count: int
):
    state = model.prefill(embeddings, prompt, pruning)
    tokens, logits = [], []
    for _ in range(count):
        logits.append(state.logits)
        tokens.append(int(state.logits.argmax()))
        model.step(state, tokens[-1])
    return tokens, torch.stack(logits), state


def compare(
    text: str, pruning: ComposedPruning, stages: dict[int, reference.Stage], *, by_next: bool = False, **parts
) -> list[int]:
    """Prompt and answer by both ways; returns the prompt tokens by layer."""
    fast, plain = models(text)
    embeddings, prompt = prompt_parts(**parts)
    tokens, logits, state = greedy(LayerwiseModel(fast), embeddings, prompt, pruning, 12)
    for count in range(12):
        expected, lengths = reference.reference_logits(
            plain, embeddings, prompt, tokens[:count], stages, by_next=by_next
        )
        torch.testing.assert_close(logits[count], expected, atol=2e-4, rtol=1e-4)
    assert list(state.layer_tokens) == lengths
    assert state.cache.lengths == tuple(length + 12 for length in lengths)
    return lengths


@pytest.mark.parametrize("text", BACKBONES)
@pytest.mark.parametrize("spec", [None, *(Pruning(name, 1.0) for name in ("fastv", "pyramiddrop", "sparsevlm"))])
def test_with_everything_kept_it_is_the_librarys_generation(text: str, spec: Pruning | None):
    model, _ = models(text)
    ids = torch.randint(5, VOCABULARY, (1, COUNT), generator=torch.Generator().manual_seed(3))
    options = {"do_sample": False, "max_new_tokens": 80, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
    expected = model.generate(ids, **options)[0, COUNT:].tolist()
    layerwise = LayerwiseModel(model)
    _, prompt = prompt_parts()
    pruning = compose(spec, LAYERS) if spec is not None else None
    tokens, _, state = greedy(layerwise, layerwise.embed(ids[0].tolist()), prompt, pruning, 80)
    assert tokens == expected
    assert state.layer_tokens == (COUNT,) * LAYERS
    assert state.cache.lengths == (COUNT + 80,) * LAYERS


@pytest.mark.parametrize("text", BACKBONES)
@pytest.mark.parametrize("layer", [1, 3, 7])
@pytest.mark.parametrize("gaps", [False, True])
def test_fastv(text: str, layer: int, gaps: bool):
    pruning = compose(Pruning("fastv", 0.3, {"layer": layer}), LAYERS)
    stages: dict[int, reference.Stage] = {layer: lambda s, a: reference.fastv_stage(s, a, ratio=0.3, quotas=None)}
    lengths = compare(text, pruning, stages, gaps=gaps)
    assert lengths == [COUNT] * layer + [BEFORE + AFTER + 18] * (LAYERS - layer)


@pytest.mark.parametrize("text", BACKBONES)
def test_fastv_with_quotas(text: str):
    quotas = [0, 5, 12, 3]
    pruning = compose(Pruning("fastv"), LAYERS, quotas=True)
    stages: dict[int, reference.Stage] = {2: lambda s, a: reference.fastv_stage(s, a, ratio=None, quotas=quotas)}
    lengths = compare(text, pruning, stages, quotas=quotas)
    assert lengths == [COUNT] * 2 + [BEFORE + AFTER + 12 + 20] * 6


@pytest.mark.parametrize("text", BACKBONES)
def test_pyramiddrop(text: str):
    stages: dict[int, reference.Stage] = {
        layer: lambda s, a, count=count: reference.pyramid_stage(s, a, count=count)
        for layer, count in ((2, 30), (4, 15), (6, 7))
    }
    lengths = compare(text, compose(Pruning("pyramiddrop"), LAYERS), stages, by_next=True)
    rest = BEFORE + AFTER
    assert lengths == [COUNT] * 2 + [rest + 30] * 2 + [rest + 15] * 2 + [rest + 7] * 2


def sparse_stages(embeddings: torch.Tensor, prompt: PromptLayout, depths: list[int], counts: list, **options):
    rows = reference.text_raters(embeddings.double().numpy(), prompt.vision.tolist())
    raters = [row - COUNT for row in rows]
    return {
        depth: lambda s, a, count=count: reference.sparse_stage(s, a, raters, count=count, **options)
        for depth, count in zip(depths, counts, strict=True)
    }


@pytest.mark.parametrize("text", BACKBONES)
def test_sparsevlm_with_a_ratio(text: str):
    pruning = compose(Pruning("sparsevlm", 0.4), LAYERS)
    depths = [stage.after for stage in pruning.stages]
    assert depths == [1, 2, 4]
    counts = [int(VISION * stage.share) for stage in pruning.stages if stage.share is not None]
    lengths = compare(text, pruning, sparse_stages(*prompt_parts(), depths, counts, scale=0, bias=0))
    dropped = VISION - counts[0]
    assert lengths[1] == BEFORE + AFTER + counts[0] + (int(dropped * 0.3) + 1) // 10 + 1


@pytest.mark.parametrize("text", BACKBONES)
def test_sparsevlm_by_rank(text: str):
    pruning = compose(Pruning("sparsevlm", None, {"scale": 7.5, "bias": 2}), LAYERS)
    stages = sparse_stages(*prompt_parts(), [1, 2, 4, 5], [None] * 4, scale=7.5, bias=2)
    lengths = compare(text, pruning, stages)
    assert lengths[1] < COUNT


def test_sparsevlm_with_quotas():
    quotas = [2, 1, 0, 9]
    pruning = compose(Pruning("sparsevlm"), LAYERS, quotas=True)
    stages = sparse_stages(*prompt_parts(), [1], [None], scale=0, bias=0, quotas=quotas)
    lengths = compare("llama", pruning, stages, quotas=quotas)
    assert lengths == [COUNT] + [BEFORE + AFTER + 12 + 12 + 2] * 7  # 36 dropped, 11 recycled to 2


def test_original_places_reach_every_layer():
    """Without pruning, places with gaps are what the library computes when it is given them."""
    model, _ = models("llama")
    embeddings, prompt = prompt_parts(gaps=True)
    tokens, logits, _ = greedy(LayerwiseModel(model), embeddings, prompt, None, 10)
    whole = torch.cat([embeddings, model.get_input_embeddings()(torch.tensor(tokens))])
    last = int(prompt.positions[-1])
    positions = torch.cat([prompt.positions, last + 1 + torch.arange(10)])
    expected = model(inputs_embeds=whole[None], position_ids=positions[None]).logits[0, COUNT - 1 : -1]
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)
    plain, _, _ = greedy(LayerwiseModel(model), *prompt_parts(), None, 10)
    assert plain != tokens


def test_tied_weights_are_shared_and_the_models_own_settings_do_not_matter():
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    before = LayerwiseModel(model)
    table = model.get_input_embeddings()
    model.set_input_embeddings(VirtualEmbedding(table, rows=4))
    model.config._attn_implementation = "paged|sdpa"
    after = LayerwiseModel(model)
    prompt = PromptLayout.of(torch.zeros(6, dtype=torch.bool))
    states = [each.prefill(each.embed(range(6)), prompt) for each in (before, after)]
    assert torch.equal(states[0].logits, states[1].logits)
    assert model.config._attn_implementation == "paged|sdpa"
    with torch.no_grad():
        table.weight.mul_(2)
    assert torch.equal(after.embed([3]), table.weight[3:4])
    assert not torch.equal(after.prefill(after.embed(range(6)), prompt).logits, states[0].logits)


def test_both_models_may_run_at_one_time():
    model, _ = models("llama")
    layerwise = LayerwiseModel(model)
    embeddings, prompt = prompt_parts()
    pruning = compose(Pruning("pyramiddrop"), LAYERS)
    ids = torch.arange(5, 60)[None]
    expected = greedy(layerwise, embeddings, prompt, pruning, 8)[0], model(ids).logits
    found = []

    def other():
        with torch.no_grad():
            found.extend(model(ids).logits for _ in range(20))

    thread = threading.Thread(target=other)
    thread.start()
    answers = [greedy(layerwise, embeddings, prompt, pruning, 8)[0] for _ in range(5)]
    thread.join()
    assert answers == [expected[0]] * 5
    assert all(torch.equal(logits, expected[1]) for logits in found)


def test_a_prompt_beyond_the_position_encoding_is_refused():
    """A sliding window, which is shorter, does not bound the context."""
    model = LayerwiseModel(models("mistral, windowed")[0])
    assert (model.context_length, set(model.windows)) == (512, {20})
    with pytest.raises(PromptTooLongError, match="prompt of 513 tokens; this model holds 512"):
        model.prefill(torch.zeros(513, 48), PromptLayout.of(torch.zeros(513, dtype=torch.bool)))


def test_refusals():
    phi = AutoModelForCausalLM.from_config(
        PhiConfig(vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    with pytest.raises(InvalidRequestError, match="in llama, mistral, qwen2 models; this one is phi"):
        LayerwiseModel(phi)
    model, _ = models("llama")
    with pytest.raises(InvalidPruningError, match="for 32 layers cannot run in a model of 8"):
        LayerwiseModel(model).prefill(*prompt_parts(), compose(Pruning("pyramiddrop"), 32))


def test_a_prompt_that_ends_with_its_image_keeps_its_last_token():
    model, _ = models("llama")
    vision = torch.tensor([False] * 2 + [True] * 30)
    pruning = compose(Pruning("fastv", 0.01, {"layer": 1}), LAYERS)
    state = LayerwiseModel(model).prefill(torch.randn(32, 48), PromptLayout.of(vision), pruning)
    assert state.layer_tokens == (32,) + (3,) * 7
    assert not math.isnan(float(state.logits.sum()))
