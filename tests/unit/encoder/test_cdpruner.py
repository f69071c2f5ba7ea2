"""CDPruner's choice by a relevance that is given, against its definition on padded images."""

import numpy as np
import pytest
import torch
from visionsplit.errors import InvalidCompressionError
from visionsplit.options.compression import Compression

from encoder_service.compression import TileFeatures, TowerOutput, compose, select
from tests.unit.encoder import reference_greedy as reference

CDPRUNER = Compression("cdpruner", 0.25)


def kept_of(features, relevance, grid, spec=CDPRUNER):
    return select(TileFeatures(features, {TowerOutput.TEXT_RELEVANCE: relevance}), grid, spec)


def scaled(grid, relevance):
    """(r - lowest + 1e-6) / (highest - lowest) over the valid cells of all tiles; of padding anything."""
    cells = [cell for tile in range(grid.num_tiles) for cell in reference.tokens(grid, tile)]
    values = [float(relevance[tile, row * grid.side + column]) for tile, row, column in cells]
    lowest, highest = min(values), max(values)
    return (relevance.double() - lowest + 1e-6) / (highest - lowest)


@pytest.mark.parametrize("shape", reference.SHAPES, ids=str)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_choice_equals_the_definition(shape, seed):
    """In each tile the kernel weight_i * cosine_ij * weight_j, the weights scaled over all tiles."""
    grid, features, relevance = reference.case(shape, seed=seed, size=40)
    kept = kept_of(features, relevance, grid)
    assert kept.budgets == [int(count * 0.25) for count in grid.valid_counts()]
    weights = scaled(grid, relevance)
    expected = reference.expected(grid, features, weights, kept.budgets, reference.determinantal)
    assert reference.positions(kept) == expected


def test_relevance_is_scaled_over_the_image_and_not_in_each_tile():
    """One tile is barely relevant: its tokens are then nearly alike in weight, and directions decide."""
    grid, features, relevance = reference.case((2, 2, 6, 672, 672), seed=3, size=40)
    relevance[1] = relevance[1] * 0.02 + 4
    kept = kept_of(features, relevance, grid)

    def by_tile(count, vectors, values):
        return reference.determinantal(count, vectors, reference.as_weights(values, 1))

    jointly = reference.expected(grid, features, scaled(grid, relevance), kept.budgets, reference.determinantal)
    apart = reference.expected(grid, features, relevance, kept.budgets, by_tile)
    assert reference.positions(kept) == jointly
    assert jointly[1] != apart[1]


def test_padding_counts_nowhere():
    grid, features, relevance = reference.case((1, 3, 4, 640, 90), seed=4, size=40)
    kept = kept_of(features, relevance, grid)
    valid = {(t, r * grid.side + c) for tile in range(grid.num_tiles) for t, r, c in reference.tokens(grid, tile)}
    extreme = relevance.clone()
    for tile, cell in np.ndindex(*relevance.shape):
        if (tile, cell) not in valid:
            extreme[tile, cell] = 1e4 * (-1) ** cell
    assert len(valid) < relevance.numel()
    assert reference.positions(kept_of(features, extreme, grid)) == reference.positions(kept)


def test_where_all_are_equally_relevant_directions_alone_decide():
    grid, features, _ = reference.case((2, 2, 6, 672, 672), seed=5, size=40)
    alike = torch.full(features.shape[:2], 0.3)
    flat = select(TileFeatures(features, {}), grid, Compression("cdpruner", 0.25, score="flat"))
    assert reference.positions(kept_of(features, alike, grid)) == reference.positions(flat)


@pytest.mark.parametrize("budget", ["pooled", "softmax_sum"])
def test_other_budgets_and_parameters_may_be_asked_for(budget):
    grid, features, relevance = reference.case((1, 2, 6, 700, 500), seed=6, size=40)
    spec = Compression("cdpruner", 0.25, budget=budget, parameters={"worth_power": 0.5})
    outputs = {TowerOutput.TEXT_RELEVANCE: relevance, TowerOutput.SALIENCE: relevance.flip(0)}
    kept = select(TileFeatures(features, outputs), grid, spec)
    weights = scaled(grid, relevance).sqrt()
    pooled = budget == "pooled"
    budgets = int(sum(grid.valid_counts()) * 0.25) if pooled else kept.budgets
    expected = reference.expected(grid, features, weights, budgets, reference.determinantal, pooled=pooled)
    assert reference.positions(kept) == expected


def test_the_most_relevant_may_be_kept_without_regard_to_directions():
    grid, features, relevance = reference.case((2, 2, 6, 672, 672), seed=7)
    kept = kept_of(features, relevance, grid, Compression("cdpruner", 0.25, selection="top_k"))

    def choose(count, _vectors, values):
        return sorted(range(len(values)), key=lambda index: -values[index])[:count]

    assert reference.positions(kept) == reference.expected(grid, features, relevance, kept.budgets, choose)


def test_what_it_needs_and_when_it_waits():
    composition = compose(CDPRUNER)
    assert composition.needs == {TowerOutput.TEXT_RELEVANCE}
    assert composition.reads_text
    assert composition.waits_for_image
    for spec in (Compression("cdpruner", 1.0), Compression("cdpruner", 0.5, quotas_only=True)):
        assert compose(spec).needs == frozenset()
        assert not compose(spec).reads_text
        assert not compose(spec).waits_for_image
    assert compose(Compression("globalcom2", 0.5, score="prompt_relevance")).reads_text
    assert not compose(Compression("cdpruner", 0.5, score="local")).reads_text


@pytest.mark.parametrize("method", ["globalcom2", "none", "divprune"])
def test_guidance_for_a_method_that_reads_none(method):
    spec = Compression(method, None if method == "none" else 0.5, guidance="a cat")
    with pytest.raises(InvalidCompressionError, match="looks at no text; guidance is for the scores: prompt_relevance"):
        compose(spec)


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_empty_guidance(text):
    with pytest.raises(InvalidCompressionError, match="guidance is empty"):
        compose(Compression("cdpruner", 0.5, guidance=text))


def test_guidance_that_has_nothing_to_decide_is_taken():
    """As parameters are: a sweep over ratios may end at 1."""
    assert compose(Compression("cdpruner", 1.0, guidance="a cat")).retention_ratio == 1
