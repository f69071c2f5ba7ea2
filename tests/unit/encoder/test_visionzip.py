"""VisionZip against a plain implementation, token by token."""

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


def visionzip(cells, budget, share, features, keys, attention):
    """The kept cells of one tile and their features."""
    contextual = int(budget * share)
    dominant = best_first(attention, cells)[: budget - contextual]
    rest = [cell for cell in cells if cell not in dominant]
    step = max(1, len(rest) // contextual) if contextual else 1
    targets = [rest[index] for index in range(0, len(rest), step)][:contextual]
    groups = {target: [] for target in targets}
    for cell in rest:
        if targets and cell not in targets:
            groups[max(targets, key=lambda target, cell=cell: cosine(keys[cell], keys[target]))].append(features[cell])
    merged = [features[cell] for cell in dominant]
    merged += [features[target] + (sum(group) / len(group) if group else 0) for target, group in groups.items()]
    return dominant + targets, merged


def check(encoded, grid, ratio, **parameters):
    share = parameters.get("contextual_share", 10 / 64)
    spec = Compression("visionzip", ratio, parameters=parameters)
    expected = []
    for tile in range(grid.num_tiles):
        cells = valid_cells(grid, tile)
        values = arrays(encoded, tile, TowerOutput.KEYS, TowerOutput.CLS_ATTENTION)
        expected.append(visionzip(cells, int(len(cells) * ratio), share, *values))
    kept = select(encoded, grid, spec)
    assert kept_cells(kept, grid) == [cells for cells, _ in expected]
    for actual, (_, merged) in zip(features_by_tile(kept), expected, strict=True):
        if merged:
            np.testing.assert_allclose(actual, np.stack(merged), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize(
    "parameters", [{}, {"contextual_share": 0.5}, {"contextual_share": 0}, {"contextual_share": 1}]
)
def test_equals_the_plain_implementation(ratio, parameters):
    for seed, grid in enumerate(grids()[::2]):
        check(by_chance(grid, seed), grid, ratio, **parameters)


@pytest.mark.parametrize(("height", "width"), [(672, 672), (400, 900)])
def test_equals_the_plain_implementation_at_the_papers_size(height, width):
    grid = TileGrid.padded(height, width, rows=2, columns=2, side=24)
    check(by_chance(grid, 3), grid, 64 / 576)


@pytest.mark.parametrize(("kept", "dominant"), [(64, 54), (128, 108), (192, 162), (32, 27)])
def test_the_default_share_gives_the_papers_numbers(kept, dominant):
    grid = TileGrid.padded(336, 336, rows=1, columns=1, side=24)
    encoded = by_chance(grid)
    cells = kept_cells(select(encoded, grid, Compression("visionzip", kept / 576)), grid)[0]
    assert len(cells) == kept
    best = best_first(encoded.outputs[TowerOutput.CLS_ATTENTION][0].tolist(), range(576))
    assert cells[:dominant] == best[:dominant]
    assert cells[dominant:] == sorted(cells[dominant:])
    assert cells[dominant:] != best[dominant:kept]


def test_a_tile_that_keeps_everything_is_left_as_it_is():
    grid = TileGrid.padded(672, 672, rows=2, columns=2, side=6)
    encoded = by_chance(grid)
    spec = Compression("visionzip", 0.7, budget="softmax_sum", parameters={"tau": 0.001})
    kept = select(encoded, grid, spec)
    full = kept.budgets.index(36, 1)
    cells = kept_cells(kept, grid)[full]
    assert sorted(cells) == list(range(36))
    assert np.array_equal(features_by_tile(kept)[full], encoded.features[full][cells].double().numpy())


@pytest.mark.parametrize("ratio", [0.1, 0.5])
def test_tiles_may_arrive_in_pieces(ratio):
    """To the last bit: a merged token does not depend on which tiles were encoded with its own."""
    choice = random.Random(0)
    for seed, grid in enumerate(grids(side=8)):
        encoded, spec = by_chance(grid, seed), Compression("visionzip", ratio)
        whole = select(encoded, grid, spec)
        plan, positions, features = in_pieces(encoded, grid, spec, choice)
        assert plan.budgets == whole.budgets
        assert torch.equal(positions, torch.cat(whole.positions))
        assert torch.equal(features, whole.features)


def test_needs_and_parameters():
    composition = compose(Compression("visionzip", 0.1))
    assert composition.needs == {TowerOutput.CLS_ATTENTION, TowerOutput.KEYS}
    assert composition.parameters == {"contextual_share": 10 / 64}
    assert not composition.waits_for_image
    assert not composition.nested
    with pytest.raises(InvalidCompressionError, match=r"'contextual_share' is 1.1; it must be in \[0, 1\]"):
        compose(Compression("visionzip", 0.1, parameters={"contextual_share": 1.1}))


def test_half_precision_features_stay_in_their_type():
    grid = TileGrid.padded(300, 200, rows=1, columns=2, side=8)
    encoded = by_chance(grid)
    half = TileFeatures(encoded.features.bfloat16(), encoded.outputs)
    exact = TileFeatures(half.features.float(), encoded.outputs)
    spec = Compression("visionzip", 0.3)
    kept = select(half, grid, spec)
    assert kept.features.dtype is torch.bfloat16
    assert torch.equal(kept.features, select(exact, grid, spec).features.bfloat16())
