"""The validation of requests for compression."""

import math
import re
from types import MappingProxyType

import pytest
import torch
from visionsplit.errors import InvalidCompressionError
from visionsplit.grid import TileGrid
from visionsplit.options.compression import Compression
from visionsplit.options.layout import LAYOUTS
from visionsplit.options.parameters import Parameter
from visionsplit.v1 import encoder_service_pb2, vision_tokens_pb2

from encoder_service.compression import (
    BUDGETS,
    METHODS,
    SCORES,
    SELECTIONS,
    TowerOutput,
    compose,
    select,
)
from encoder_service.compression.methods import Method
from tests.conftest import ROOT
from tests.unit.encoder.helpers import png, running_encoder, scored

GRID = TileGrid.padded(300, 224, rows=2, columns=2, side=8)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_ratio_one_keeps_every_token_in_raster_order(method, layout):
    kept = select(scored(torch.randn(5, 64)), GRID, Compression(method, 1.0, layout))
    assert kept.budgets == GRID.valid_counts()
    assert kept.ratios is None
    for tile, positions in enumerate(kept.positions):
        region = GRID.valid_in_tile(tile)
        expected = [
            [tile, row, column]
            for row in range(region.top, region.bottom)
            for column in range(region.left, region.right)
        ]
        assert positions.tolist() == expected


def test_uncompressed_needs_nothing_but_features():
    assert compose(Compression("globalcom2", 1.0)).needs == frozenset()
    assert compose(Compression("none")).needs == frozenset()
    assert compose(Compression("globalcom2", 0.5)).needs == {TowerOutput.SALIENCE}
    assert compose(Compression("uniform", 0.5)).needs == frozenset()
    assert compose(Compression("globalcom2", 0.5, score="flat", selection="even")).needs == {TowerOutput.SALIENCE}


@pytest.mark.parametrize("ratio", [0, -1, 2, 1.0000001, math.nan, math.inf, -math.inf])
def test_ratio_outside_its_range(ratio):
    with pytest.raises(InvalidCompressionError, match=r"retention_ratio is .*; it must be in \(0, 1\]"):
        compose(Compression("globalcom2", ratio))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Compression(""), "unknown method ''; there are: " + re.escape(", ".join(sorted(METHODS)))),
        (
            Compression("fastest", 0.1),
            "unknown method 'fastest'; there are: " + re.escape(", ".join(sorted(METHODS))),
        ),
        (Compression("globalcom2", 0.1, score="x"), "unknown score 'x'; there are: " + ", ".join(sorted(SCORES))),
        (
            Compression("globalcom2", 0.1, budget="x"),
            "unknown budget 'x'; there are: " + ", ".join(sorted(BUDGETS)),
        ),
        (
            Compression("globalcom2", 0.1, selection="x"),
            "unknown selection 'x'; there are: " + ", ".join(sorted(SELECTIONS)),
        ),
        (Compression("globalcom2", 0.1, parameters={"beta": 1}), "this composition takes: alpha, tau"),
        (Compression("globalcom2", 0.1, budget="uniform", parameters={"tau": 1}), "takes: alpha$"),
        (Compression("globalcom2", 0.1, parameters={"tau": 0}), r"'tau' is 0; it must be in \(0, inf\)"),
        (Compression("globalcom2", 0.1, parameters={"tau": math.nan}), "'tau' is nan; it must be in"),
        (Compression("globalcom2", 0.1, parameters={"alpha": 1.5}), r"'alpha' is 1.5; it must be in \[0, 1\]"),
        (Compression("x" * 65, 0.1), "unknown method 'x{64}…'; there are"),
        (Compression("globalcom2", 0.1, score="x" * 9999), "unknown score 'x{64}…'; there are"),
        (Compression("globalcom2", 0.1, parameters={"x" * 9999: 1}), "unknown parameter 'x{64}…'; this"),
        (Compression("globalcom2", 0.1, parameters={"tau": math.inf}), "'tau' is inf; it must be in"),
        (Compression("none", parameters={"alpha": 0.5}), "unknown parameter 'alpha'; this composition takes: none"),
        (Compression("none", 0.5), "'none' keeps every token; retention_ratio 0.5 contradicts it"),
    ],
)
def test_wrong_requests_are_refused_with_what_exists(spec, message):
    with pytest.raises(InvalidCompressionError, match=message):
        compose(spec)


def test_a_ratio_that_keeps_nothing_is_refused_with_the_numbers():
    with pytest.raises(InvalidCompressionError, match=r"0.001 keeps none of the image's \d+ tokens"):
        select(scored(torch.randn(5, 64)), GRID, Compression("globalcom2", 0.001))


def test_scores_of_another_grid_are_refused():
    with pytest.raises(InvalidCompressionError, match=r"\[4, 64(, 8)?\]; the grid needs \[5, 64\]"):
        select(scored(torch.randn(4, 64)), GRID, Compression("globalcom2", 0.5))


def test_parameters_change_the_choice():
    scores = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)) + 0.2
    cold = select(scored(scores), GRID, Compression("globalcom2", 0.3, parameters={"tau": 0.1}))
    warm = select(scored(scores), GRID, Compression("globalcom2", 0.3, parameters={"tau": 1e6}))
    assert cold.budgets != warm.budgets
    assert warm.ratios == pytest.approx([0.3] * 5, abs=1e-5)
    local = select(scored(scores), GRID, Compression("globalcom2", 0.3, parameters={"alpha": 1.0}))
    named = select(scored(scores), GRID, Compression("globalcom2", 0.3, score="local"))
    assert all(map(torch.equal, local.positions, named.positions))


def test_a_new_parts_parameters_are_checked_from_its_table(monkeypatch):
    class Stepwise:
        name = "stepwise"
        description = "Every n-th token."
        parameters = MappingProxyType({"step": Parameter(2, minimum=1, maximum=8)})
        needs = reads = frozenset()
        nested = True
        own_counts = False

        def pick(self, candidates, budgets, parameters):
            raise NotImplementedError

    monkeypatch.setitem(SELECTIONS, "stepwise", Stepwise())

    def spec(**parameters):
        return Compression("globalcom2", 0.1, selection="stepwise", parameters=parameters)

    assert compose(spec()).parameters == {"step": 2, "alpha": 0.5, "tau": 10.0}
    assert compose(spec(step=8)).parameters["step"] == 8
    for value in (0.5, 9, math.nan):
        with pytest.raises(InvalidCompressionError, match=rf"'step' is {value}; it must be in \[1, 8\]"):
            compose(spec(step=value))


BASELINES = ["uniform", "random"]


@pytest.mark.parametrize("method", BASELINES)
@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5, 0.9])
def test_a_baseline_keeps_the_same_share_of_every_tile_and_only_valid_cells(method, ratio):
    kept = select(scored(torch.randn(5, 64)), GRID, Compression(method, ratio))
    assert kept.budgets == [int(count * ratio) for count in GRID.valid_counts()]
    for tile, positions in enumerate(kept.positions):
        region = GRID.valid_in_tile(tile)
        assert len(set(map(tuple, positions.tolist()))) == kept.budgets[tile]
        assert ((positions[:, 1] >= region.top) & (positions[:, 1] < region.bottom)).all()
        assert ((positions[:, 2] >= region.left) & (positions[:, 2] < region.right)).all()


@pytest.mark.parametrize("method", BASELINES)
def test_a_baselines_smaller_choice_is_a_prefix_of_a_larger_one(method):
    scores = torch.randn(5, 64)
    small, large = (select(scored(scores), GRID, Compression(method, ratio)) for ratio in (0.2, 0.6))
    for fewer, more in zip(small.positions, large.positions, strict=True):
        assert torch.equal(fewer, more[: len(fewer)])


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.3, 0.5])
def test_uniform_leaves_no_wide_gap(ratio):
    grid = TileGrid.padded(336, 336, rows=2, columns=2, side=24)
    kept = select(scored(torch.randn(5, 576)), grid, Compression("uniform", ratio))
    for positions in kept.positions:
        cells = (positions[:, 1] * 24 + positions[:, 2]).sort().values
        assert cells.diff().max() <= 2.7 / ratio  # the golden ratio's largest step is below phi squared times the mean
    assert torch.equal(kept.positions[1][:, 1:], kept.positions[2][:, 1:])


def test_random_is_even_handed_repeatable_and_follows_its_seed():
    grid = TileGrid.padded(336, 336, rows=2, columns=2, side=24)
    counts = torch.zeros(576)
    for image in range(200):
        scores = torch.randn(5, 576, generator=torch.Generator().manual_seed(image))
        kept = select(scored(scores), grid, Compression("random", 0.1))
        again = select(scored(scores), grid, Compression("random", 0.1))
        other = select(scored(scores), grid, Compression("random", 0.1, parameters={"seed": 1}))
        assert all(map(torch.equal, kept.positions, again.positions))
        assert not any(map(torch.equal, kept.positions, other.positions))
        picked = torch.cat(kept.positions)
        counts += torch.bincount(picked[:, 1] * 24 + picked[:, 2], minlength=576)
        # Whatever a token is worth, its chance is the same.
        worth = scores.flatten()[picked[:, 0] * 576 + picked[:, 1] * 24 + picked[:, 2]]
        assert abs(worth.mean()) < 0.35
    expected = counts.sum() / 576  # about 99 with a standard deviation of 9.4
    assert counts.min() > expected - 5 * 9.4
    assert counts.max() < expected + 5 * 9.4


async def test_the_example_of_the_documentation_is_a_method(monkeypatch, random_checkpoints):
    """One file and one row, from the documentation, asked for over a socket."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    code = page.split("<!-- tests/unit/encoder/test_compression.py runs this example -->\n```python\n")[1].split("```")[
        0
    ]
    names = {}
    exec(compile(code, "architecture.md", "exec"), names)
    row = re.search(r"`(Method\([^`]*\))`", page)[1]
    selection = names["RowByRowSelection"]()
    monkeypatch.setitem(SELECTIONS, selection.name, selection)
    method = eval(row, {"Method": Method})
    monkeypatch.setitem(METHODS, method.name, method)

    scores = torch.randn(5, 64, generator=torch.Generator().manual_seed(2))
    kept = select(scored(scores), GRID, Compression(method.name, 0.25, budget="uniform", parameters={"cells": 8}))
    thumbnail = scores[0].view(8, 8)
    assert {(row, column) for _, row, column in kept.positions[0].tolist()[:8]} == {
        (row, int(thumbnail[row].argmax())) for row in range(8)
    }
    async with running_encoder(random_checkpoints["llama"]) as (_, stub):
        info = await stub.GetEncoderInfo(encoder_service_pb2.GetEncoderInfoRequest())
        (listed,) = (one for one in info.methods if one.name == method.name)
        assert dict(listed.parameters) == {"cells": 4.0, "tau": 10.0}
        compression = vision_tokens_pb2.Compression(method=method.name, retention_ratio=0.5)
        request = encoder_service_pb2.EncodeRequest(
            image=encoder_service_pb2.Image(data=png(200, 200)), compression=compression
        )
        answers = [answer async for answer in stub.Encode(request)]
        assert sum(answers[0].header.tokens.budgets) == answers[-1].summary.tokens_after > 0
