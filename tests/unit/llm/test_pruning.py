"""The choices of pruning methods, against loops written from the methods' descriptions."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from visionsplit.errors import InvalidPruningError
from visionsplit.options.prefill import Pruning

from llm_service.pruning import PRUNING_METHODS, ComposedPruning, PromptLayout, compose
from tests.unit.llm.reference_pruning import merge_loop, text_raters, top, top_of_tiles

LAYERS = 32


def composed(method: str, ratio: float | None = None, *, layers: int = LAYERS, quotas: bool = False, **parameters):
    return compose(Pruning(method, ratio, parameters), layers, quotas=quotas)


def schedule(pruning: ComposedPruning) -> list[tuple[int, int]]:
    return [(stage.after, stage.rated_by) for stage in pruning.stages]


def layout(text_before: int, vision: int, text_after: int, **fields) -> PromptLayout:
    mask = torch.tensor([False] * text_before + [True] * vision + [False] * text_after)
    return PromptLayout.of(mask, **fields)


def test_the_table_tells_what_there_is():
    assert set(PRUNING_METHODS) == {"fastv", "pyramiddrop", "sparsevlm"}
    assert [name for name, method in PRUNING_METHODS.items() if method.takes_quotas] == ["fastv", "sparsevlm"]
    for name, method in PRUNING_METHODS.items():
        assert method.name == name
        assert "arXiv" in method.description
        assert all(parameter.allows(parameter.default) for parameter in method.parameters.values())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Pruning("fast"), "unknown pruning method 'fast'; there are: fastv, pyramiddrop, sparsevlm"),
        (Pruning("fastv"), r"method 'fastv' needs a retention_ratio in \(0, 1\]"),
        (Pruning("fastv", 0.0), r"retention_ratio is 0.0; it must be in \(0, 1\]"),
        (Pruning("fastv", math.nan), r"retention_ratio is nan; it must be in \(0, 1\]"),
        (Pruning("fastv", 0.5, {"layer": 2.5}), r"parameter 'layer' is 2.5; it must be in the whole numbers"),
        (Pruning("fastv", 0.5, {"k": 2}), "unknown parameter 'k'; method 'fastv' takes: layer"),
        (Pruning("fastv", 0.5, {"layer": 32}), "'layer' is 32; it must be below the model's 32 layers"),
        (Pruning("pyramiddrop", 0.02), "0.02 is out of reach for method 'pyramiddrop': the 1 of 32"),
        (Pruning("pyramiddrop", 0.5, {"share_1": 0.5}), "leave out 'share_1' or the ratio"),
        (Pruning("pyramiddrop", None, {"share_1": 0.1}), "the shares of method 'pyramiddrop' must descend"),
        (Pruning("pyramiddrop", None, {"depth_1": 0.9}), "must ascend; they are 0.9, 0.5, 0.75"),
        (Pruning("sparsevlm", 0.05, {"depth_1": 3 / 32}), "so 0.09375 is the least"),
        (Pruning("sparsevlm", 0.5, {"scale": 9}), "leave out 'scale' or the ratio"),
    ],
)
def test_refusals(spec: Pruning, message: str):
    with pytest.raises(InvalidPruningError, match=message):
        compose(spec, LAYERS)


def test_a_shallow_model_and_quotas_are_refused_where_they_do_not_fit():
    with pytest.raises(InvalidPruningError, match="has 3 stages between layers; the model's 3 layers are too few"):
        composed("pyramiddrop", layers=3)
    with pytest.raises(InvalidPruningError, match="takes no quotas; these do: fastv, sparsevlm"):
        composed("pyramiddrop", quotas=True)
    assert composed("fastv", quotas=True).average_share is None  # the quotas decide, a ratio is not needed


def test_published_schedules():
    assert schedule(composed("fastv", 0.1)) == [(2, 1)]
    assert composed("fastv", 0.1).average_share == pytest.approx((2 + 30 * 0.1) / 32)
    pyramid = composed("pyramiddrop")
    assert schedule(pyramid) == [(8, 8), (16, 16), (24, 24)]
    assert [stage.share for stage in pyramid.stages] == [0.5, 0.25, 0.125]
    assert pyramid.average_share == 0.46875
    by_ratio = composed("pyramiddrop", 0.46875)
    assert schedule(by_ratio) == schedule(pyramid)
    assert [stage.share for stage in by_ratio.stages] == pytest.approx([0.5, 0.25, 0.125])
    sparse = composed("sparsevlm")
    assert schedule(sparse) == [(3, 2), (7, 6), (16, 15), (20, 19)]  # version 1.0; the lists of 1.5 have three stages
    assert schedule(composed("sparsevlm", 0.25)) == [(3, 2), (7, 6), (16, 15)]
    assert sparse.average_share is None


@pytest.mark.parametrize("ratio", [0.1, 0.15, 0.25, 0.3, 0.5, 0.75, 0.97, 1.0])
@pytest.mark.parametrize("method", ["pyramiddrop", "sparsevlm"])
@pytest.mark.parametrize("layers", [32, 40, 28])
def test_a_ratio_is_the_mean_over_the_layers(method: str, ratio: float, layers: int):
    stages = composed(method, ratio, layers=layers).stages
    seen, shares = [], [1.0] + [stage.share for stage in stages]
    for layer in range(layers):
        seen.append(shares[sum(stage.after <= layer for stage in stages)])
    assert sum(seen) / layers == pytest.approx(ratio)
    assert all(0 <= later <= earlier + 1e-12 for earlier, later in pairwise(shares))


def test_sparsevlm_shares_lie_on_the_published_lists():
    """Where the ratio is a list's own mean over the layers, the shares are the list."""
    for counts in ((300, 200, 110), (303, 110, 36), (66, 30, 17)):
        mean = (3 * 576 + 4 * counts[0] + 9 * counts[1] + 16 * counts[2]) / 32 / 576
        shares = [stage.share for stage in composed("sparsevlm", mean).stages]
        assert [share * 576 for share in shares] == pytest.approx(counts)


@pytest.mark.parametrize(("vision", "ratio"), [(57, 0.1), (10, 0.999), (8, 0.1), (576, 0.25)])
def test_fastv_keeps_the_best_in_order_where_they_were(vision: int, ratio: float):
    torch.manual_seed(vision)
    prompt = layout(3, vision, 4, positions=torch.arange(vision + 7) * 2)
    hidden, attention = torch.randn(len(prompt), 5), torch.rand(1, len(prompt))
    left, after = composed("fastv", ratio).reduce(0, attention, hidden, prompt, total=vision)
    kept = top(attention[0, 3 : 3 + vision].tolist(), int(vision * ratio))
    rows = [row for row in range(len(prompt)) if not 3 <= row < 3 + vision or row - 3 in kept]
    assert torch.equal(left, hidden[rows])
    assert after.positions.tolist() == [2 * row for row in rows]
    assert after.vision.tolist() == [3 <= row < 3 + vision for row in rows]


def test_equal_scores_keep_the_earlier():
    prompt = layout(1, 6, 1)
    _, after = composed("fastv", 0.5).reduce(0, torch.ones(1, 8), torch.randn(8, 2), prompt, total=6)
    assert after.positions.tolist() == [0, 1, 2, 3, 7]


@pytest.mark.parametrize("method", ["fastv", "sparsevlm"])
@pytest.mark.parametrize("seed", range(4))
def test_quotas_choose_in_each_tile(method: str, seed: int):
    random = np.random.default_rng(seed)
    tiles = random.integers(-1, 4, 60)
    quotas = random.integers(0, 14, 4)
    whole = torch.from_numpy(np.concatenate([[-1, -1], tiles, [-1, -1, -1]]))
    prompt = layout(2, 60, 3, tiles=whole, quotas=torch.from_numpy(quotas))
    attention = torch.rand(1, 65)
    pruning = composed(method, quotas=True, **({"recycled": 0} if method == "sparsevlm" else {}))
    left, after = pruning.reduce(0, attention, torch.arange(65.0)[:, None], prompt, total=60)
    kept = top_of_tiles(attention[0, 2:62].tolist(), tiles.tolist(), quotas.tolist())
    assert left[:, 0].tolist() == [0, 1, *(2 + index for index in sorted(kept)), 62, 63, 64]
    assert after.num_vision == len(kept)
    newlines = int((tiles == -1).sum())
    assert after.num_vision == newlines + sum(min(q, int((tiles == t).sum())) for t, q in enumerate(quotas))


def test_sparsevlm_with_quotas_acts_once_and_its_clusters_have_no_tile():
    tiles = torch.tensor([-1] + [0] * 20 + [1] * 20 + [-1])
    prompt = layout(1, 40, 1, tiles=tiles, quotas=torch.tensor([3, 5]))
    pruning = composed("sparsevlm", quotas=True)
    hidden, after = pruning.reduce(0, torch.rand(2, 42), torch.randn(42, 6), prompt, total=40)
    assert after.tiles.tolist() == [-1] + [0] * 3 + [1] * 5 + [-1] * 2 + [-1]  # int(32 * 0.3) + 1 merge to 2
    assert after.num_vision == 10
    for stage in (1, 2):
        same, unchanged = pruning.reduce(stage, torch.rand(2, len(hidden)), hidden, after, total=40)
        assert same is hidden
        assert unchanged is after


def test_pyramiddrop_counts_from_the_whole_prompt_and_renumbers():
    prompt = layout(5, 101, 3)
    hidden = torch.arange(109.0)[:, None]
    pruning, rows = composed("pyramiddrop"), list(range(109))
    for stage, count in enumerate((50, 25, 12)):
        attention = torch.rand(1, len(prompt))
        columns = [index for index, is_vision in enumerate(prompt.vision.tolist()) if is_vision]
        kept = {columns[number] for number in top(attention[0, columns].tolist(), count)}
        rows = [row for index, row in enumerate(rows) if index not in columns or index in kept]
        hidden, prompt = pruning.reduce(stage, attention, hidden, prompt, total=101)
        assert hidden[:, 0].tolist() == rows
        assert prompt.positions.tolist() == list(range(len(rows)))
        assert prompt.num_vision == count


@pytest.mark.parametrize("seed", range(5))
def test_sparsevlm_raters(seed: int):
    torch.manual_seed(seed)
    prompt = layout(3, 20, 9)
    embeddings = torch.randn(32, 8)
    raters = composed("sparsevlm").raters(embeddings, prompt)
    assert (raters + 32).tolist() == text_raters(embeddings.double().numpy(), prompt.vision.tolist())


def test_without_text_after_the_image_or_without_an_image_the_last_token_rates():
    pruning = composed("sparsevlm")
    only = PromptLayout.of(torch.tensor([False, True, True, True]))
    assert only.vision.tolist() == [False, True, True, False]
    assert pruning.raters(torch.randn(4, 3), only).tolist() == [-1]
    assert pruning.raters(torch.randn(3, 3), PromptLayout.of(torch.zeros(3, dtype=torch.bool))).tolist() == [-1]


@pytest.mark.parametrize(("scale", "bias"), [(13.5, 0.0), (2.0, 3.0), (0.8, 0.0)])
def test_sparsevlm_counts_by_rank(scale: float, bias: float):
    torch.manual_seed(1)
    prompt = layout(2, 40, 7)
    rows = torch.rand(3, 49)
    rows = torch.cat([rows, rows[:2] + rows[1:]])  # five raters of rank three
    pruning = composed("sparsevlm", scale=scale, bias=bias, recycled=0)
    _, after = pruning.reduce(0, rows, torch.randn(49, 4), prompt, total=40)
    assert after.num_vision == min(int(3 * scale + bias), 39)
    assert len(after) == after.num_vision + 9


def test_sparsevlm_keeps_everything_where_the_rank_is_full():
    prompt, hidden = layout(1, 3, 4), torch.randn(8, 4)
    rows = torch.cat([torch.zeros(3, 1), torch.eye(3), torch.zeros(3, 4)], dim=1)
    left, after = composed("sparsevlm").reduce(0, rows, hidden, prompt, total=3)
    assert left is hidden
    assert after is prompt


@pytest.mark.parametrize("vision", [12, 60, 150])
def test_sparsevlm_recycles_behind_the_kept_tokens(vision: int):
    torch.manual_seed(vision)
    prompt = layout(2, vision, 4)
    hidden, attention = torch.randn(vision + 6, 8), torch.rand(2, vision + 6)
    pruning = composed("sparsevlm", 0.3)
    left, after = pruning.reduce(0, attention, hidden, prompt, total=vision)
    scores = attention[:, 2 : vision + 2].mean(0).tolist()
    count = max(int(vision * pruning.stages[0].share), 1)
    kept = top(scores, count)
    dropped = sorted(set(range(vision)) - kept, key=lambda index: (-scores[index], index))
    recycled = dropped[: int(0.3 * len(dropped)) + 1]
    merged = merge_loop(hidden[[2 + index for index in recycled]], int(len(recycled) / 10) + 1)
    rows = [hidden[0], hidden[1], *(hidden[2 + index] for index in sorted(kept)), *merged, *hidden[-4:]]
    torch.testing.assert_close(left, torch.stack(rows))
    assert after.positions.tolist() == list(range(len(rows)))
    assert after.num_vision == count + len(merged)


def test_recycling_equal_tokens_leaves_no_empty_cluster():
    prompt = layout(1, 80, 1)
    hidden = torch.ones(82, 4)
    left, _ = composed("sparsevlm", 0.2).reduce(0, torch.rand(1, 82), hidden, prompt, total=80)
    torch.testing.assert_close(left, torch.ones_like(left))
