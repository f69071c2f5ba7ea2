"""SCOPE and its selection against the definition, on padded images, per tile and for the image as a whole."""

import numpy as np
import pytest
import torch
from visionsplit.options.compression import Compression

from encoder_service.compression import select
from encoder_service.compression.selections.coverage import ChangedCoverage, WholeCoverage
from tests.unit.encoder import reference_greedy as reference


def coverage(power=1.0):
    def choose(count, vectors, scores):
        return reference.coverage(count, vectors, reference.proportional(scores, power))

    return choose


@pytest.mark.parametrize("shape", reference.SHAPES, ids=str)
@pytest.mark.parametrize("ratio", [0.1, 0.25])
def test_the_method_equals_the_definition(shape, ratio):
    """The saliency is attention, which needs no shift: the definition's A to the power alpha."""
    grid, features, scores = reference.case(shape, seed=21, positive=True)
    kept = select(reference.encoded(features, scores), grid, Compression("scope", ratio))
    assert kept.budgets == [int(count * ratio) for count in grid.valid_counts()]

    def published(count, vectors, attention):
        return reference.coverage(count, vectors, attention)

    assert reference.positions(kept) == reference.expected(grid, features, scores, kept.budgets, published)


@pytest.mark.parametrize("shape", reference.SHAPES, ids=str)
@pytest.mark.parametrize("power", [0.5, 2])
def test_scores_that_may_be_negative_are_shifted(shape, power):
    grid, features, scores = reference.case(shape, seed=22)
    spec = Compression("scope", 0.2, score="local", parameters={"worth_power": power})
    kept = select(reference.encoded(features, scores), grid, spec)
    assert reference.positions(kept) == reference.expected(grid, features, scores, kept.budgets, coverage(power))


@pytest.mark.parametrize("shape", reference.SHAPES, ids=str)
def test_without_saliency_every_pick_gains_most(shape):
    """Two tokens that cover each other and themselves best gain equally, so rounding may choose between them."""
    grid, features, scores = reference.case(shape, seed=22)
    spec = Compression("scope", 0.25, parameters={"worth_power": 0})
    kept = select(reference.encoded(features, scores), grid, spec)
    for tile, positions in enumerate(reference.positions(kept)):
        vectors = [features[tile, r * grid.side + c].double().numpy() for _, r, c in reference.tokens(grid, tile)]
        similar = np.array([[reference.cosine(a, b) for b in vectors] for a in vectors])
        covered = np.zeros(len(vectors))
        for position in positions:
            gains = np.maximum(similar, covered[:, None]).sum(axis=0) - covered.sum()
            index = reference.tokens(grid, tile).index(position)
            assert gains[index] >= gains.max() - 1e-5
            covered = np.maximum(covered, similar[:, index])


def test_one_budget_for_the_image():
    grid, features, scores = reference.case((1, 3, 4, 640, 90), seed=23, positive=True)
    kept = select(reference.encoded(features, scores), grid, Compression("scope", 0.2, budget="pooled"))
    total = sum(kept.budgets)
    assert reference.positions(kept) == reference.expected(grid, features, scores, total, coverage(), pooled=True)


def test_padding_neither_is_covered_nor_covers():
    grid, features, scores = reference.case((2, 2, 6, 300, 700), seed=24, positive=True)
    kept = select(reference.encoded(features, scores), grid, Compression("scope", 0.3))
    other = torch.full_like(features, -5.0)
    for tile in range(grid.num_tiles):
        for _, row, column in reference.tokens(grid, tile):
            other[tile, row * 6 + column] = features[tile, row * 6 + column]
    again = select(reference.encoded(other, scores), grid, Compression("scope", 0.3))
    assert reference.positions(again) == reference.positions(kept)


def test_both_ways_to_keep_count_agree():
    """One is for a CPU and one for other devices, which these tests have none of."""
    generator = torch.Generator().manual_seed(25)
    uncovered = torch.rand(3, 40, 40, generator=generator)
    uncovered = (uncovered + uncovered.transpose(1, 2)) / 2
    weight = torch.rand(3, 40, generator=generator)
    changed, whole = ChangedCoverage(uncovered.clone(), weight), WholeCoverage(uncovered.clone(), weight)
    for _ in range(25):
        torch.testing.assert_close(changed.values().float(), whole.values(), rtol=1e-4, atol=1e-5)
        picked = changed.values().argmax(dim=1)
        changed.add(picked)
        whole.add(picked)
