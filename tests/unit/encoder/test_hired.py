"""HiRED against a plain implementation of its published code, without the padding that the code budgets for."""

import random

import pytest
import torch
from visionsplit.errors import InvalidCompressionError
from visionsplit.grid import TileGrid
from visionsplit.options.compression import Compression

from encoder_service.compression import TileFeatures, TowerOutput, compose, select
from encoder_service.compression.budgets.attention_share import divide
from tests.unit.encoder.reference_tiles import RATIOS, best_first, by_chance, grids, in_pieces, kept_cells, valid_cells

PAPERS_GRID = TileGrid.padded(672, 672, rows=2, columns=2, side=24)


def hired_budgets(grid, first_layer, ratio, alpha):
    """Tokens of every tile, thumbnail first, by the thumbnail's attention in the first layer [P]."""
    counts = [len(valid_cells(grid, tile)) for tile in range(grid.num_tiles)]
    total = int(sum(counts) * ratio)
    full = min(int(total * alpha), counts[0])
    rest = min(total - full, sum(counts[1:]))
    cells = grid.side * grid.side
    marked = [0] * grid.num_crops
    for cell in best_first(first_layer, range(cells))[: int(cells * (1 - alpha))]:
        row = min(cell // grid.side // max(grid.side // grid.rows, 1), grid.rows - 1)
        column = min(cell % grid.side // max(grid.side // grid.columns, 1), grid.columns - 1)
        marked[row * grid.columns + column] += 1
    if sum(marked) == 0:
        marked = [1] * grid.num_crops
    shares = [rest * number // sum(marked) for number in marked]
    return [full, *(min(share, count) for share, count in zip(shares, counts[1:], strict=True))]


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("alpha", [None, 0, 0.2, 0.8, 1])
def test_equals_the_plain_implementation(ratio, alpha):
    parameters = {} if alpha is None else {"thumbnail_share": alpha}
    for seed, grid in enumerate(grids()):
        encoded = by_chance(grid, seed)
        first_layer = encoded.outputs[TowerOutput.CLS_ATTENTION_FIRST][0].tolist()
        budgets = hired_budgets(grid, first_layer, ratio, 0.5 if alpha is None else alpha)
        spec = Compression("hired", ratio, parameters=parameters)
        if not any(budgets):
            with pytest.raises(InvalidCompressionError, match="keeps none"):
                select(encoded, grid, spec)
            continue
        kept = select(encoded, grid, spec)
        assert kept.budgets == budgets
        attention = encoded.outputs[TowerOutput.CLS_ATTENTION].tolist()
        expected = [
            best_first(attention[tile], valid_cells(grid, tile))[:budget] for tile, budget in enumerate(budgets)
        ]
        cells = kept_cells(kept, grid)
        assert cells == expected
        places = [(tile, cell) for tile, own in enumerate(cells) for cell in own]
        assert torch.equal(kept.features, torch.stack([encoded.features[place] for place in places]))


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.2, 0.25, 0.4, 0.5])
def test_the_total_is_kept_but_for_truncation(ratio):
    """On a grid without padding, unless a crop's share is more than it has."""
    for seed in range(20):
        encoded = by_chance(PAPERS_GRID, seed)
        kept = select(encoded, PAPERS_GRID, Compression("hired", ratio))
        total = int(5 * 576 * ratio)
        assert kept.budgets[0] == min(int(total * 0.5), 576)
        assert total - 4 < sum(kept.budgets) <= total


def looking_at(*crops):
    """The thumbnail's first layer sees these crops of the 2 x 2 grid only."""
    encoded = by_chance(PAPERS_GRID)
    attention = torch.rand(5, 24, 24, generator=torch.Generator().manual_seed(1)) * 1e-3
    for crop in crops:
        row, column = divmod(crop, 2)
        attention[0, row * 12 : row * 12 + 12, column * 12 : column * 12 + 12] += 1
    outputs = {**encoded.outputs, TowerOutput.CLS_ATTENTION_FIRST: attention.flatten(1)}
    return TileFeatures(encoded.features, outputs)


def test_a_crop_is_where_it_lies_and_not_a_run_of_the_raster():
    """The two left crops: the upper and lower half of the raster would share all four alike."""
    kept = select(looking_at(0, 2), PAPERS_GRID, Compression("hired", 0.2))
    assert kept.budgets == [288, 144, 0, 144, 0]


def test_what_a_crop_cannot_take_is_lost_and_what_the_thumbnail_cannot_goes_to_the_crops():
    half = select(looking_at(3, 1), PAPERS_GRID, Compression("hired", 0.5))
    assert half.budgets == [576, 0, 432, 0, 432]
    most = select(looking_at(3, 1), PAPERS_GRID, Compression("hired", 0.9))
    assert most.budgets == [576, 0, 576, 0, 576]
    assert most.ratios == [1.0, 0.0, 1.0, 0.0, 1.0]


def test_every_whole_number_survives_its_ratio():
    """Budgets are whole numbers here, while a plan truncates a tile's count times its ratio: 49 * (1 / 49) < 1."""
    grid = TileGrid.padded(300, 300, rows=2, columns=2, side=7)
    encoded = by_chance(grid)
    for total in range(1, sum(grid.valid_counts())):
        ratio = (total + 0.5) / sum(grid.valid_counts())
        first_layer = encoded.outputs[TowerOutput.CLS_ATTENTION_FIRST][0].tolist()
        budgets = hired_budgets(grid, first_layer, ratio, 0.5)
        if any(budgets):
            spec = Compression("hired", ratio, quotas_only=True)
            assert select(encoded, grid, spec).quotas == budgets


def test_tiles_may_arrive_in_pieces():
    choice = random.Random(0)
    for seed, grid in enumerate(grids()):
        encoded, spec = by_chance(grid, seed), Compression("hired", 0.3)
        whole = select(encoded, grid, spec)
        plan, positions, features = in_pieces(encoded, grid, spec, choice)
        assert plan.budgets == whole.budgets
        assert torch.equal(positions, torch.cat(whole.positions))
        assert torch.equal(features, whole.features)


def test_needs_and_parameters():
    composition = compose(Compression("hired", 0.1))
    assert composition.needs == {TowerOutput.CLS_ATTENTION, TowerOutput.CLS_ATTENTION_FIRST}
    assert composition.parameters == {"thumbnail_share": 0.5}
    assert not composition.waits_for_image
    assert composition.nested
    with pytest.raises(InvalidCompressionError, match=r"'thumbnail_share' is 2; it must be in \[0, 1\]"):
        compose(Compression("hired", 0.1, parameters={"thumbnail_share": 2}))


def test_an_image_without_crops_keeps_the_whole_total():
    assert divide(64, [256], [], 0.5) == [64]
