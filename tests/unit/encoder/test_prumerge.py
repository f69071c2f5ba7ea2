"""PruMerge and PruMerge+ against plain implementations, token by token."""

import random

import numpy as np
import pytest
import torch
from visionsplit.errors import InvalidCompressionError
from visionsplit.grid import TileGrid
from visionsplit.options.compression import Compression

from encoder_service.compression import TileFeatures, TowerOutput, compose, select
from tests.unit.encoder.reference_tiles import (
    RATIOS,
    arrays,
    best_first,
    by_chance,
    cosine,
    features_by_tile,
    grids,
    in_pieces,
    kept_cells,
    valid_cells,
)

METHODS = ["prumerge", "prumerge+"]


def adaptive_ratio(grid, affinity):
    """The share of outliers among all views' valid tokens, as the published code finds it with NumPy in float32."""
    values = np.array(
        [affinity[tile][cell] for tile in range(grid.num_tiles) for cell in valid_cells(grid, tile)], dtype=np.float32
    )
    first, third = np.percentile(values, 25), np.percentile(values, 75)
    return len(np.where(values > third + 1.5 * (third - first))[0]) / len(values)


def choose(cells, affinity, ratio, *, plus, adaptive):
    """The kept cells of one tile and the place of the extra token (None where nothing is dropped)."""
    best = best_first(affinity, cells)
    kept = best[: int(len(cells) * ratio)]
    if plus and kept:
        step = int(1 / ratio)
        if adaptive:
            samples = range(0, len(cells) - 1, max(int(step / 3), 1))
        else:
            samples = range(int(step / 2), len(cells) - 1, step)
        kept = kept + [cells[index] for index in samples if cells[index] not in kept]
    dropped = [cell for cell in best if cell not in kept]
    return kept, dropped[0] if kept and dropped else None


def merge(kept, cells, features, keys, affinity):
    """The kept tokens with their 32 nearest added, and the sum of the dropped ones."""
    merged = []
    for i in kept:
        others = sorted((m for m in cells if m != i), key=lambda m: -cosine(keys[i], keys[m]))
        merged.append(features[i] + sum(affinity[m] * features[m] for m in others[:32]))
    return merged, sum(affinity[m] * features[m] for m in cells if m not in kept)


def check(encoded, grid, method, ratio):
    """Compare one image; False where nothing at all is to be kept."""
    affinity = encoded.outputs[TowerOutput.CLS_AFFINITY]
    found = adaptive_ratio(grid, affinity.tolist()) if ratio is None else ratio
    spec = Compression(method, ratio)
    expected = []
    for tile in range(grid.num_tiles):
        features, keys, weights = arrays(encoded, tile, TowerOutput.LAST_KEYS, TowerOutput.CLS_AFFINITY)
        cells = valid_cells(grid, tile)
        kept, place = choose(cells, weights, found, plus=method == "prumerge+", adaptive=ratio is None)
        merged, extra = merge(kept, cells, features, keys, weights)
        expected.append((kept, merged) if place is None else ([*kept, place], [*merged, extra]))
    if not any(cells for cells, _ in expected):
        with pytest.raises(InvalidCompressionError, match="keeps none of the image's"):
            select(encoded, grid, spec)
        return False
    kept = select(encoded, grid, spec)
    assert kept.ratios == [found] * grid.num_tiles
    assert kept_cells(kept, grid) == [cells for cells, _ in expected]
    for actual, (_, merged) in zip(features_by_tile(kept), expected, strict=True):
        if merged:
            np.testing.assert_allclose(actual, np.stack(merged), rtol=1e-5, atol=1e-5)
    return True


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ratio", [*RATIOS, None])
def test_equals_the_plain_implementation(method, ratio):
    """At side 6 a tile has 36 cells, so that there are more, just as many and fewer than 32 neighbours."""
    chosen = grids()[::3]
    assert sum(check(by_chance(grid, seed), grid, method, ratio) for seed, grid in enumerate(chosen)) > 10


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ratio", [0.1, None])
def test_equals_the_plain_implementation_at_the_papers_size(method, ratio):
    grid = TileGrid.padded(1000, 336, rows=1, columns=2, side=24)
    assert check(by_chance(grid, 5), grid, method, ratio)


@pytest.mark.parametrize(("ratio", "per_view"), [(0.25, 145), (0.1, 58), (0.05, 29)])
def test_counts_on_the_papers_grid(ratio, per_view):
    """int(576 * ratio) tokens and the extra one; PruMerge+ adds the samples that are not among them."""
    grid = TileGrid.padded(672, 672, rows=2, columns=2, side=24)
    encoded = by_chance(grid)
    assert select(encoded, grid, Compression("prumerge", ratio)).budgets == [per_view] * 5
    step = int(1 / ratio)
    for tile, budget in enumerate(select(encoded, grid, Compression("prumerge+", ratio)).budgets):
        best = best_first(encoded.outputs[TowerOutput.CLS_AFFINITY][tile].tolist(), range(576))[: per_view - 1]
        assert budget == per_view + len(set(range(step // 2, 575, step)) - set(best))


@pytest.mark.parametrize("cells", [2, 3, 5, 9, 64, 100, 576])
def test_the_share_of_outliers_is_numpys(cells):
    """Also where the percentiles lie between two values, and where values are equal."""
    side = 24
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        grid = TileGrid.padded(side, side, rows=1, columns=1, side=side)
        values = torch.rand(2, side * side, generator=generator) ** 4
        values[:, cells:] = values[:, :1]  # the rest alike
        encoded = by_chance(grid)
        affinity = values.softmax(dim=1) if seed % 2 else (values * 8).round() / 8
        encoded = TileFeatures(encoded.features, {**encoded.outputs, TowerOutput.CLS_AFFINITY: affinity})
        expected = adaptive_ratio(grid, affinity.tolist())
        if int(side * side * expected):
            assert select(encoded, grid, Compression("prumerge")).ratios == [expected] * 2


@pytest.mark.parametrize("method", METHODS)
def test_an_image_without_outliers_is_refused(method):
    grid = TileGrid.padded(672, 672, rows=2, columns=2, side=4)
    encoded = by_chance(grid)
    flat = {**encoded.outputs, TowerOutput.CLS_AFFINITY: torch.full((5, 16), 1 / 16)}
    with pytest.raises(
        InvalidCompressionError, match=r"'outliers' keeps none of the image's 80 tokens, because no token stands out"
    ):
        select(TileFeatures(encoded.features, flat), grid, Compression(method))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ratio", [0.1, 0.6, None])
def test_tiles_may_arrive_in_pieces(method, ratio):
    """To the last bit: a merged token does not depend on which tiles were encoded with its own."""
    choice = random.Random(0)
    for seed, grid in enumerate(grids(side=8)):
        encoded, spec = by_chance(grid, seed), Compression(method, ratio)
        whole = select(encoded, grid, spec)
        plan, positions, features = in_pieces(encoded, grid, spec, choice)
        assert plan.budgets == whole.budgets
        assert torch.equal(positions, torch.cat(whole.positions))
        assert torch.equal(features, whole.features)


@pytest.mark.parametrize(
    ("method", "ratio", "waits"),
    [("prumerge", 0.1, False), ("prumerge", None, True), ("prumerge+", 0.1, True), ("prumerge+", None, True)],
)
def test_waits_for_the_image_where_the_numbers_are_known_last(method, ratio, waits):
    composition = compose(Compression(method, ratio))
    assert composition.waits_for_image is waits
    assert composition.needs == {TowerOutput.CLS_AFFINITY, TowerOutput.LAST_KEYS}
    assert not composition.nested


def test_a_ratio_with_the_adaptive_budget_is_refused():
    with pytest.raises(InvalidCompressionError, match="'outliers' finds the retention_ratio itself; give none"):
        compose(Compression("prumerge", 0.5, budget="outliers"))


def test_a_tile_that_drops_nothing_has_no_extra_token():
    """A budget clipped at 1 takes all of a crop; its last token must not be taken for the extra one."""
    grid = TileGrid.padded(672, 672, rows=2, columns=2, side=6)
    encoded = by_chance(grid)
    spec = Compression("prumerge", 0.7, budget="softmax_sum", parameters={"tau": 0.001})
    kept = select(encoded, grid, spec)
    full = kept.budgets.index(36, 1)
    assert sorted(kept.budgets) == [19, 19, 19, 26, 36]  # int(36 * 0.7 * 3 / 4) + 1, int(36 * 0.7) + 1, and all
    features, keys, weights = arrays(encoded, full, TowerOutput.LAST_KEYS, TowerOutput.CLS_AFFINITY)
    cells = best_first(weights, range(36))
    assert kept_cells(kept, grid)[full] == cells
    merged, _ = merge(cells, cells, features, keys, weights)
    np.testing.assert_allclose(features_by_tile(kept)[full], np.stack(merged), rtol=1e-5, atol=1e-5)


def test_all_tiles_as_one_row_have_one_extra_token():
    """And where it stands for one dropped token only, all places of the image are taken."""
    grid = TileGrid.padded(60, 60, rows=1, columns=1, side=4)
    encoded = by_chance(grid)
    plain = select(encoded, grid, Compression("prumerge", 0.999, budget="pooled", merging="none"))
    kept = select(encoded, grid, Compression("prumerge", 0.999, budget="pooled"))
    assert (sum(plain.budgets), kept.budgets) == (31, [16, 16])
    left = {tuple(place) for place in torch.cat(plain.positions).tolist()}
    places = [tuple(place) for place in torch.cat(kept.positions).tolist()]
    (tile, row, column) = dropped = (set(places) - left).pop()
    affinity = encoded.outputs[TowerOutput.CLS_AFFINITY][tile, row * 4 + column]
    expected = affinity * encoded.features[tile, row * 4 + column]
    torch.testing.assert_close(kept.features[places.index(dropped)], expected)


def test_half_precision_features_stay_in_their_type():
    grid = TileGrid.padded(300, 200, rows=1, columns=2, side=8)
    encoded = by_chance(grid)
    half = TileFeatures(encoded.features.bfloat16(), encoded.outputs)
    exact = TileFeatures(half.features.float(), encoded.outputs)
    spec = Compression("prumerge", 0.3)
    kept = select(half, grid, spec)
    assert kept.features.dtype is torch.bfloat16
    assert torch.equal(kept.features, select(exact, grid, spec).features.bfloat16())
