"""Images of one batch: their tokens are chosen together, and are those that each image would keep alone."""

import pytest
import torch
from visionsplit.errors import InternalError, InvalidCompressionError
from visionsplit.options.compression import Compression

from encoder_service.compression import (
    METHODS,
    SELECTIONS,
    NextTiles,
    Plan,
    TileFeatures,
    TowerOutput,
    compose,
    take,
    take_together,
)
from tests.unit.encoder import reference_greedy as reference

CPU = torch.device("cpu")
GRIDS = [(2, 2, 6, 672, 672), (1, 2, 6, 700, 500), (2, 1, 6, 90, 640), (2, 2, 6, 500, 400)]  # one of them unpadded
OUTPUTS = {  # values of each tile's cells
    **dict.fromkeys((TowerOutput.SALIENCE, TowerOutput.CLS_ATTENTION, TowerOutput.CLS_ATTENTION_FIRST), ()),
    TowerOutput.CLS_AFFINITY: (),
    TowerOutput.LAST_KEYS: (8,),
    TowerOutput.KEYS: (8,),
}
SPECS = [Compression("none")]
SPECS += [Compression(name, 0.3) for name, one in METHODS.items() if name != "none" and one.score != "prompt_relevance"]
SPECS += [Compression("globalcom2", 0.3, selection=name) for name in SELECTIONS if name != "spatial_samples"]


def image(shape, seed):
    """A grid, and what a tower says of its tiles."""
    grid, features, _ = reference.case(shape, seed)
    generator = torch.Generator().manual_seed(seed)
    outputs = {
        output: torch.rand(*features.shape[:2], *size, generator=generator) + 0.01 for output, size in OUTPUTS.items()
    }
    return grid, TileFeatures(features, outputs)


def assert_equal(taken, alone):
    assert torch.equal(taken.numbers, alone.numbers)
    assert torch.equal(taken.features, alone.features)
    assert (taken.ranks is None) == (alone.ranks is None)
    assert taken.ranks is None or torch.equal(taken.ranks, alone.ranks)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.method}-{spec.selection}")
def test_a_batch_of_images_keeps_what_each_keeps_alone(spec):
    """Also from tile to tile, where the images of a batch are at different tiles."""
    images = [image(shape, seed) for seed, shape in enumerate(GRIDS)]
    composition = compose(spec)
    plans = [Plan(composition, grid, CPU) for grid, _ in images]
    alone = [Plan(composition, grid, CPU) for grid, _ in images]
    for first, stop in ((0, 1), (1, 3), (3, 5)):
        parts = [
            (index, first, min(stop, grid.num_tiles))
            for index, (grid, _) in enumerate(images)
            if first < grid.num_tiles
        ]
        found = take_together([NextTiles(plans[i], a, b, images[i][1].tiles(a, b)) for i, a, b in parts])
        for taken, (i, a, b) in zip(found, parts, strict=True):
            expected = take(alone[i], a, b, images[i][1].tiles(a, b))
            if expected is None:
                assert taken is None
            else:
                assert_equal(taken, expected)
    assert [plan.budgets for plan in plans] == [plan.budgets for plan in alone]


def test_images_with_other_wishes_and_errors_do_not_disturb_each_other():
    grid, encoded = image(GRIDS[0], 0)
    broken = TileFeatures(encoded.features, {**encoded.outputs, TowerOutput.SALIENCE: torch.full((5, 36), torch.nan)})
    wishes = [
        (Compression("globalcom2-diverse", 0.3), encoded),
        (Compression("globalcom2-diverse", 0.001), encoded),
        (Compression("globalcom2-diverse", 0.5), encoded),
        (Compression("globalcom2", 0.3), broken),
        (Compression("none"), encoded),
        (Compression("globalcom2-diverse", 0.3, parameters={"worth_power": 2.0}), encoded),
    ]
    taken = take_together([NextTiles(Plan(compose(spec), grid, CPU), 0, 5, source) for spec, source in wishes])
    assert isinstance(taken[1], InvalidCompressionError)
    assert isinstance(taken[3], InternalError)
    for index in (0, 2, 4, 5):
        spec, source = wishes[index]
        assert_equal(taken[index], take(Plan(compose(spec), grid, CPU), 0, 5, source))
