"""DivPrune and its selection against the definition, on padded images, per tile and for the image as a whole."""

import pytest
import torch
from visionsplit.grid import TileGrid
from visionsplit.options.compression import Compression

from encoder_service.compression import select
from tests.unit.encoder import reference_greedy as reference

GRID = TileGrid.padded(224, 224, rows=2, columns=2, side=6)


def max_min(power=0.0):
    def choose(count, vectors, scores):
        return reference.max_min(count, vectors, reference.as_weights(scores, power))

    return choose


@pytest.mark.parametrize("shape", reference.SHAPES, ids=str)
@pytest.mark.parametrize("ratio", [0.03, 0.1, 0.3])
def test_the_method_equals_the_definition(shape, ratio):
    grid, features, scores = reference.case(shape, seed=1)
    kept = select(reference.encoded(features, scores), grid, Compression("divprune", ratio))
    total = int(sum(grid.valid_counts()) * ratio)
    assert sum(kept.budgets) == total
    assert reference.positions(kept) == reference.expected(grid, features, scores, total, max_min(), pooled=True)


@pytest.mark.parametrize("shape", reference.SHAPES, ids=str)
@pytest.mark.parametrize("power", [0, 0.5, 1])
@pytest.mark.parametrize("budget", ["uniform", "softmax_sum"])
def test_a_choice_in_each_tile_equals_the_definition(shape, power, budget):
    grid, features, scores = reference.case(shape, seed=2)
    parameters = {"worth_power": power}
    spec = Compression("globalcom2", 0.3, score="local", budget=budget, selection="max_min", parameters=parameters)
    kept = select(reference.encoded(features, scores), grid, spec)
    assert reference.positions(kept) == reference.expected(grid, features, scores, kept.budgets, max_min(power))


@pytest.mark.parametrize(
    "selection", ["max_min", "centred_max_min", "coverage", "determinantal", "centred_determinantal"]
)
@pytest.mark.parametrize("budget", ["pooled", "uniform"])
def test_a_smaller_choice_is_a_prefix_of_a_larger_one(selection, budget):
    grid, features, scores = reference.case((2, 2, 6, 500, 700), seed=3)
    small, middle, large = (
        select(
            reference.encoded(features, scores),
            grid,
            Compression("globalcom2", ratio, score="local", budget=budget, selection=selection),
        )
        for ratio in (0.1, 0.5, 0.999)
    )
    for few, more, most in zip(small.positions, middle.positions, large.positions, strict=True):
        assert torch.equal(few, more[: len(few)])
        assert torch.equal(more, most[: len(more)])


@pytest.mark.parametrize(
    "selection", ["max_min", "centred_max_min", "coverage", "determinantal", "centred_determinantal"]
)
@pytest.mark.parametrize("kind", ["copies", "zeros", "few", "flat"])
def test_every_token_is_picked_once_whatever_the_features(selection, kind):
    """Copies, no length, fewer directions than picks, all alike: 0.999 of 36 tokens are 35 of each tile."""
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(5, 36, 8, generator=generator)
    features = {
        "copies": features[:, :4].repeat(1, 9, 1),
        "zeros": features * (torch.arange(36) % 3 > 0)[:, None],
        "few": features * (torch.arange(8) < 2),
        "flat": torch.ones(5, 36, 8),
    }[kind]
    scores = torch.randn(5, 36, generator=generator)
    for score, budget in (("local", "uniform"), ("flat", "pooled")):
        spec = Compression("globalcom2", 0.999, score=score, budget=budget, selection=selection)
        kept = select(reference.encoded(features, scores), GRID, spec)
        everything = [tuple(position) for position in torch.cat(kept.positions).tolist()]
        assert len(set(everything)) == len(everything) == int(180 * 0.999) - (4 if budget == "uniform" else 0)


def test_copies_of_kept_tokens_come_last_and_in_raster_order():
    """Axes are exact in every arithmetic: 4 directions, each 9 times; copies are at distance 0 from one another."""
    features = torch.eye(8)[torch.arange(36) % 4].expand(5, -1, -1)
    spec = Compression("divprune", 0.5, budget="uniform")
    kept = select(reference.encoded(features, torch.zeros(5, 36)), GRID, spec)
    cells = [row * 6 + column for _, row, column in kept.positions[0].tolist()]
    assert cells == list(range(18))
    alone = torch.eye(8)[[7, *(index % 4 for index in range(35))]].expand(5, -1, -1)
    kept = select(reference.encoded(alone.flip(1), torch.zeros(5, 36)), GRID, spec)
    assert kept.positions[0][0].tolist() == [0, 5, 5], "the one token without a copy is farthest from its nearest"


def test_lengths_do_not_matter_and_a_token_without_length_is_at_distance_one():
    grid, features, scores = reference.case((2, 2, 6, 672, 672), seed=5)
    spec = Compression("divprune", 0.2)
    kept = select(reference.encoded(features, scores), grid, spec)
    lengths = 2.0 ** torch.randint(-8, 8, (5, 36, 1), generator=torch.Generator().manual_seed(5))
    assert reference.positions(select(reference.encoded(features * lengths, scores), grid, spec)) == (
        reference.positions(kept)
    )
    features[:, ::7] = 0.0
    kept = select(reference.encoded(features, scores), grid, Compression("divprune", 0.05))
    expected = reference.expected(grid, features, scores, sum(kept.budgets), max_min(), pooled=True)
    assert reference.positions(kept) == expected


def test_half_precision_features_are_compared_in_single_precision():
    grid, features, scores = reference.case((2, 2, 6, 500, 700), seed=6)
    half = features.bfloat16()
    kept = select(reference.encoded(half, scores), grid, Compression("divprune", 0.2))
    assert kept.features.dtype is torch.bfloat16
    same = select(reference.encoded(half.float(), scores), grid, Compression("divprune", 0.2))
    assert reference.positions(kept) == reference.positions(same)


def test_a_tile_of_one_token_and_tiles_without_any():
    grid = TileGrid.padded(2, 3000, rows=2, columns=3, side=8)  # width 3000, height 2
    features = torch.randn(7, 64, 8, generator=torch.Generator().manual_seed(7))
    assert 0 in grid.valid_counts()
    for selection in ("max_min", "centred_max_min", "coverage", "determinantal", "centred_determinantal"):
        for budget in ("uniform", "pooled"):
            spec = Compression("globalcom2", 0.9, score="local", budget=budget, selection=selection)
            kept = select(reference.encoded(features, torch.randn(7, 64)), grid, spec)
            assert all(number <= count for number, count in zip(kept.budgets, grid.valid_counts(), strict=True))
            for tile, positions in enumerate(reference.positions(kept)):
                assert set(positions) <= set(reference.tokens(grid, tile))
