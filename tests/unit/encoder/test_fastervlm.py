"""FasterVLM against a plain implementation: the same share of every view, by [CLS] attention after the softmax."""

import random

import pytest
import torch
from visionsplit.grid import TileGrid
from visionsplit.options.compression import Compression

from encoder_service.compression import TowerOutput, compose, select
from tests.unit.encoder.reference_tiles import RATIOS, best_first, by_chance, grids, in_pieces, kept_cells, valid_cells


def fastervlm(grid, attention, ratio):
    """The kept cells of every tile in raster order."""
    kept = []
    for tile in range(grid.num_tiles):
        cells = valid_cells(grid, tile)
        kept.append(sorted(best_first(attention[tile], cells)[: int(len(cells) * ratio)]))
    return kept


@pytest.mark.parametrize("ratio", RATIOS)
def test_equals_the_plain_implementation(ratio):
    for seed, grid in enumerate(grids()):
        encoded = by_chance(grid, seed)
        attention = encoded.outputs[TowerOutput.CLS_ATTENTION].tolist()
        expected = fastervlm(grid, attention, ratio)
        if not any(expected):
            continue
        kept = select(encoded, grid, Compression("fastervlm", ratio))
        cells = kept_cells(kept, grid)
        assert [sorted(tile) for tile in cells] == expected
        assert cells == [best_first(attention[tile], expected[tile]) for tile in range(grid.num_tiles)]
        places = [(tile, cell) for tile, own in enumerate(cells) for cell in own]
        assert torch.equal(kept.features, torch.stack([encoded.features[place] for place in places]))


@pytest.mark.parametrize(("ratio", "per_view"), [(0.25, 144), (0.1, 57), (0.05, 28)])
def test_counts_on_the_papers_grid(ratio, per_view):
    """Truncated as GlobalCom2 does where FasterVLM's documentation rounds: 57, not 58."""
    grid = TileGrid.padded(672, 672, rows=2, columns=2, side=24)
    assert select(by_chance(grid), grid, Compression("fastervlm", ratio)).budgets == [per_view] * 5


def test_tiles_may_arrive_in_pieces():
    choice = random.Random(0)
    for seed, grid in enumerate(grids()):
        encoded, spec = by_chance(grid, seed), Compression("fastervlm", 0.3)
        whole = select(encoded, grid, spec)
        plan, positions, features = in_pieces(encoded, grid, spec, choice)
        assert plan.budgets == whole.budgets
        assert torch.equal(positions, torch.cat(whole.positions))
        assert torch.equal(features, whole.features)


def test_asks_for_attention_only():
    composition = compose(Compression("fastervlm", 0.5))
    assert composition.needs == {TowerOutput.CLS_ATTENTION}
    assert composition.nested
    assert not composition.waits_for_image
