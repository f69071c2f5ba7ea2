"""Cen-Prune and its selection against the definition, on padded images, per tile and for the image as a whole."""

import pytest
import torch
from visionsplit.options.compression import Compression

from encoder_service.compression import select
from tests.unit.encoder import reference_greedy as reference


def centred_max_min(power=0.0):
    def choose(count, vectors, scores):
        return reference.centred_max_min(count, vectors, reference.as_weights(scores, power))

    return choose


@pytest.mark.parametrize("shape", reference.SHAPES, ids=str)
@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.6])
def test_the_method_equals_the_definition(shape, ratio):
    grid, features, scores = reference.case(shape, seed=11)
    kept = select(reference.encoded(features, scores), grid, Compression("cenprune", ratio))
    assert kept.budgets == [int(count * ratio) for count in grid.valid_counts()]
    assert reference.positions(kept) == reference.expected(grid, features, scores, kept.budgets, centred_max_min())


@pytest.mark.parametrize("shape", reference.SHAPES, ids=str)
def test_with_one_budget_for_the_image_the_mean_is_the_images(shape):
    grid, features, scores = reference.case(shape, seed=12)
    kept = select(reference.encoded(features, scores), grid, Compression("cenprune", 0.2, budget="pooled"))
    total = sum(kept.budgets)
    assert reference.positions(kept) == reference.expected(
        grid, features, scores, total, centred_max_min(), pooled=True
    )


@pytest.mark.parametrize("power", [0.5, 1])
def test_the_score_may_weigh_in(power):
    grid, features, scores = reference.case((2, 2, 6, 500, 700), seed=13)
    spec = Compression("cenprune", 0.3, score="local", parameters={"worth_power": power})
    kept = select(reference.encoded(features, scores), grid, spec)
    assert reference.positions(kept) == reference.expected(grid, features, scores, kept.budgets, centred_max_min(power))


def test_what_padding_shows_moves_neither_the_mean_nor_the_distinctiveness():
    grid, features, scores = reference.case((1, 3, 4, 640, 90), seed=14)
    spec = Compression("cenprune", 0.3)
    kept = select(reference.encoded(features, scores), grid, spec)
    valid = torch.zeros(grid.num_tiles, 16, dtype=torch.bool)
    for tile in range(grid.num_tiles):
        for _, row, column in reference.tokens(grid, tile):
            valid[tile, row * 4 + column] = True
    assert not valid.all()
    features[~valid] = 1e4
    assert reference.positions(select(reference.encoded(features, scores), grid, spec)) == reference.positions(kept)


def test_a_direction_that_all_tokens_share_is_left_out():
    """Behind a large common vector all cosines are nearly 1; the centred choice sees what is left of each token."""
    generator = torch.Generator().manual_seed(15)
    own = torch.eye(8)[torch.randint(0, 4, (5, 36), generator=generator)]
    own[:, 17] = 3 * torch.eye(8)[5]  # the one token unlike all others
    grid, _, scores = reference.case((2, 2, 6, 672, 672), seed=15)
    features = own + 20 * torch.eye(8)[7]
    kept = select(reference.encoded(features, scores), grid, Compression("cenprune", 0.06))
    for tile, positions in enumerate(reference.positions(kept)):
        assert positions[0] == (tile, 2, 5)
        picked = [own[tile, row * 6 + column].argmax().item() for _, row, column in positions]
        assert len(set(picked)) == len(picked) == 2
