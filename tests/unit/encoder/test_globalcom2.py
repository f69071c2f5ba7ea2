"""GlobalCom2's kept sets, budgets and ratios against an independent, slow implementation."""

import itertools
import math
import random

import pytest
import torch
from visionsplit.errors import InternalError
from visionsplit.grid import TileGrid, UnpadRule
from visionsplit.options.compression import Compression
from visionsplit.options.layout import LAYOUTS

from encoder_service.compression import Plan, compose, select, take
from tests.unit.encoder.helpers import scored
from tests.unit.encoder.reference_globalcom2 import globalcom2

GRIDS = [(1, 2), (2, 1), (2, 2), (1, 3), (3, 1), (2, 3), (3, 2), (3, 3)]
RATIOS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9)


def make_scores(generator, tiles, cells, kind):
    if kind == "normal":
        return torch.randn(tiles, cells, generator=generator)
    if kind == "small":  # like attention after a softmax: the budgets hardly differ
        return torch.rand(tiles, cells, generator=generator) / cells
    if kind == "large":  # sigma saturates
        return torch.randn(tiles, cells, generator=generator) * 30 + 5
    scores = torch.randn(tiles, cells, generator=generator) * 0.1  # "peaked": a few tokens stand out
    scores[:, :: cells // 5] += 8
    return scores


def compare(rows, columns, side, width, height, ratio, layout, kind, seed, **choices):
    generator = torch.Generator().manual_seed(seed)
    scores = make_scores(generator, 1 + rows * columns, side * side, kind)
    reference = layout == "reference"
    rule = UnpadRule.REFERENCE if reference else UnpadRule.HUGGING_FACE
    grid = TileGrid.padded(height, width, rows=rows, columns=columns, side=side, rule=rule)
    spec = Compression("globalcom2", ratio, layout, **choices)
    kept = select(scored(scores), grid, spec)
    ratios, budgets, tokens = globalcom2(
        scores,
        side=side,
        rows=rows,
        columns=columns,
        width=width,
        height=height,
        ratio=ratio,
        reference=reference,
        **{name: value for name, value in choices.items() if name in ("score", "budget")},
    )
    case = f"{rows}x{columns} side {side}, {width}x{height} px, ratio {ratio}, {layout}, {kind}, seed {seed}"
    assert kept.ratios == ratios, case
    assert kept.budgets == budgets, case
    assert [[tuple(p) for p in tile.tolist()] for tile in kept.positions] == tokens, case


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_the_slow_implementation_on_every_grid(grid, layout):
    rows, columns = grid
    choice = random.Random(rows * 10 + columns)
    for seed in range(24):
        width, height = choice.randint(1, 1500), choice.randint(1, 1500)
        kind = ("normal", "small", "large", "peaked")[seed % 4]
        compare(rows, columns, 8, width, height, choice.choice(RATIOS), layout, kind, seed)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("width", "height"), [(672, 672), (1000, 700), (333, 999), (1344, 336), (800, 797)])
def test_equals_the_slow_implementation_at_the_papers_size(width, height, layout):
    for ratio, (rows, columns) in itertools.product((0.1, 0.5), [(2, 2), (1, 3)]):
        compare(rows, columns, 24, width, height, ratio, layout, "normal", seed=width)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("width", "height"), [(3000, 2), (2, 3000), (1, 1), (100, 40), (40, 100)])
def test_images_with_crops_of_nothing_but_padding(width, height, layout):
    for rows, columns in [(1, 3), (3, 1), (2, 3), (3, 3), (2, 2)]:
        compare(rows, columns, 8, width, height, 0.5, layout, "normal", seed=3)


@pytest.mark.parametrize("score", ["local", "global", "global_local"])
@pytest.mark.parametrize("budget", ["uniform", "softmax_max", "softmax_sum", "top_k_count"])
def test_every_ablation(score, budget):
    for seed, layout in enumerate(LAYOUTS):
        compare(2, 2, 12, 700, 500, 0.25, layout, "normal", seed, score=score, budget=budget)


def test_the_first_crop_without_image_holds_the_row_back_only_in_the_reference_layout():
    """A 3x3 grid with the left crops wholly padded: rows of crops 1 and 2 read the thumbnail's first rows there."""
    width, height = 100, 400
    scores = make_scores(torch.Generator().manual_seed(1), 10, 64, "normal")
    grid = TileGrid.padded(height, width, rows=3, columns=3, side=8)
    assert grid.valid_in_tile(1).area == 0
    spec = Compression("globalcom2", 0.3, score="global")
    true = select(scored(scores), grid, spec)
    held = select(scored(scores), grid, Compression("globalcom2", 0.3, "reference", score="global"))
    assert held.budgets == true.budgets
    assert torch.equal(true.positions[2], held.positions[2])
    assert not torch.equal(true.positions[5], held.positions[5])


def test_saturated_budgets_show_the_small_constant():
    """One crop takes the whole softmax: 576 * 0.625 would be 360 without the 1e-8."""
    scores = torch.zeros(3, 576)
    scores[0].view(24, 24)[:, :12] = 100.0  # the left crop of 1x2
    grid = TileGrid.padded(336, 672, rows=1, columns=2, side=24)
    kept = select(scored(scores), grid, Compression("globalcom2", 0.625 / 1.5))
    assert kept.budgets[1] == 359
    assert kept.budgets[2] == int(576 * kept.ratios[2])


def test_a_ratio_above_one_is_clipped_and_not_passed_on():
    scores = torch.zeros(5, 576)
    scores[0].view(24, 24)[:12, :12] = 100.0
    grid = TileGrid.padded(672, 672, rows=2, columns=2, side=24)
    kept = select(scored(scores), grid, Compression("globalcom2", 0.75))
    assert kept.budgets[1] == 576
    assert sum(kept.ratios[1:]) < 4 * 0.75


def test_tile_by_tile_equals_all_at_once():
    scores = make_scores(torch.Generator().manual_seed(5), 5, 64, "normal")
    grid = TileGrid.padded(500, 700, rows=2, columns=2, side=8)
    spec = Compression("globalcom2", 0.3)
    encoded = scored(scores)
    whole = select(encoded, grid, spec)
    for cuts in ((1, 2, 3, 4, 5), (2, 5), (1, 5), (4, 5)):
        plan = Plan(compose(spec), grid, scores.device)
        first, parts = 0, []
        for stop in cuts:
            parts.append(take(plan, first, stop, encoded.tiles(first, stop)))
            first = stop
        assert torch.equal(plan.positions(torch.cat([part.numbers for part in parts])), torch.cat(whole.positions))
        assert torch.equal(torch.cat([part.features for part in parts]), whole.features)


def test_equals_score_the_first_in_raster_order_wins():
    grid = TileGrid.padded(224, 224, rows=2, columns=2, side=8)
    kept = select(scored(torch.ones(5, 64)), grid, Compression("globalcom2", 0.25))
    for tile, positions in enumerate(kept.positions):
        cells = [row * 8 + column for _, row, column in positions.tolist()]
        assert cells == list(range(kept.budgets[tile]))


@pytest.mark.parametrize("budget", ["softmax_sum", "softmax_max", "uniform"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("tile", [0, 3])
def test_scores_that_are_not_finite_choose_nothing(budget, value, tile):
    scores = make_scores(torch.Generator().manual_seed(5), 5, 64, "normal")
    scores[tile, 7] = value
    grid = TileGrid.padded(500, 500, rows=2, columns=2, side=8)
    with pytest.raises(InternalError, match="scores are not finite"):
        select(scored(scores), grid, Compression("globalcom2", 0.3, budget=budget))
