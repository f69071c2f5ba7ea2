"""Crop budgets of GlobalCom2 with a choice inside each crop that looks at the features, and what all such choices keep.

Against the definitions on padded images; and through a service in small batches against the image as a whole.
"""

import pytest
import torch
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.llava_next.vision_tower import VisionTower
from visionsplit.families.padded_canvas import PaddedCanvasTiler
from visionsplit.grid import UnpadRule
from visionsplit.images import decode_image
from visionsplit.options.compression import Compression
from visionsplit.v1 import encoder_service_pb2, vision_tokens_pb2
from visionsplit.wire.vision_tokens import TokenAssembler, grid_from_proto

from encoder_service.compression import Plan, TileFeatures, TowerOutput, compose, select, take
from encoder_service.config import BatchLimits
from tests.unit.encoder import reference_greedy as reference
from tests.unit.encoder.helpers import IMAGE_LIMITS, png, running_encoder
from tests.unit.encoder.reference_globalcom2 import globalcom2

SELECTIONS = {
    "max_min": reference.max_min,
    "centred_max_min": reference.centred_max_min,
    "coverage": reference.coverage,
    "determinantal": reference.determinantal,
    "centred_determinantal": reference.centred_determinantal,
}


def with_weights(choice, power):
    def choose(count, vectors, scores):
        return choice(count, vectors, reference.as_weights(scores, power))

    return choose


@pytest.mark.parametrize("shape", reference.SHAPES, ids=str)
@pytest.mark.parametrize("name", ["determinantal", "centred_determinantal"])
@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_a_determinantal_choice_equals_the_definition(shape, name, power):
    grid, features, scores = reference.case(shape, seed=31, size=40)
    spec = Compression("globalcom2", 0.25, score="local", selection=name, parameters={"worth_power": power})
    kept = select(reference.encoded(features, scores), grid, spec)
    choose = with_weights(SELECTIONS[name], power)
    assert reference.positions(kept) == reference.expected(grid, features, scores, kept.budgets, choose)


@pytest.mark.parametrize("name", ["determinantal", "centred_determinantal"])
def test_a_determinantal_choice_with_one_budget_for_the_image(name):
    grid, features, scores = reference.case((1, 3, 4, 640, 90), seed=32, size=40)
    spec = Compression("globalcom2", 0.25, score="local", budget="pooled", selection=name)
    kept = select(reference.encoded(features, scores), grid, spec)
    choose = with_weights(SELECTIONS[name], 1)
    total = sum(kept.budgets)
    assert reference.positions(kept) == reference.expected(grid, features, scores, total, choose, pooled=True)


@pytest.mark.parametrize("name", ["determinantal", "centred_determinantal"])
def test_tokens_of_very_small_worth_are_told_apart_by_direction(name):
    """Attention on a few tokens leaves the others millionths of a determinant."""
    grid, features, scores = reference.case((2, 2, 6, 500, 700), seed=36, size=40)
    attention = (6 * scores).softmax(dim=1)
    spec = Compression("globalcom2-diverse", 0.3, score="cls_attention", selection=name, parameters={"worth_power": 1})
    kept = select(reference.encoded(features, attention), grid, spec)
    choose = with_weights(SELECTIONS[name], 1)
    assert reference.positions(kept) == reference.expected(grid, features, attention, kept.budgets, choose)


def test_where_the_kept_tokens_span_all_others_the_rest_follow_by_worth():
    """Three directions, so three picks; then by worth."""
    generator = torch.Generator().manual_seed(33)
    features = torch.randn(5, 36, 3, generator=generator)
    scores = torch.rand(5, 36, generator=generator)
    grid, _, _ = reference.case((2, 2, 6, 672, 672), seed=0)
    spec = Compression("globalcom2", 0.5, score="local", budget="uniform", selection="determinantal")
    kept = select(reference.encoded(features, scores), grid, spec)
    for tile, positions in enumerate(reference.positions(kept)):
        cells = [row * 6 + column for _, row, column in positions]
        spanning = reference.determinantal(
            3, features[tile].double().numpy(), reference.as_weights(scores[tile].tolist(), 1)
        )
        others = sorted(set(range(36)) - set(spanning), key=lambda cell: -scores[tile, cell].item())
        assert cells == [*spanning, *others[: len(cells) - 3]]


@pytest.mark.parametrize("name", SELECTIONS)
def test_the_budgets_stay_those_of_globalcom2(name):
    rows, columns, side, width, height = 2, 2, 6, 500, 700
    grid, features, scores = reference.case((rows, columns, side, width, height), seed=34)
    ratios, budgets, _ = globalcom2(
        scores, side=side, rows=rows, columns=columns, width=width, height=height, ratio=0.3, reference=False
    )
    kept = select(reference.encoded(features, scores), grid, Compression("globalcom2", 0.3, selection=name))
    assert (kept.ratios, kept.budgets) == (ratios, budgets)
    top = select(reference.encoded(features, scores), grid, Compression("globalcom2", 0.3))
    assert not all(map(torch.equal, kept.positions, top.positions))


@pytest.mark.parametrize("name", SELECTIONS)
def test_what_a_tile_keeps_does_not_depend_on_how_many_are_treated_at_once(name):
    """At the size of a real tile, where PyTorch's products differ by the number of rows."""
    generator = torch.Generator().manual_seed(35)
    features = torch.randn(5, 576, 64, generator=generator) + torch.randn(64, generator=generator)
    encoded = reference.encoded(features, torch.randn(5, 576, generator=generator))
    grid, _, _ = reference.case((2, 2, 24, 672, 672), seed=0)
    spec = Compression("globalcom2", 0.1, selection=name)
    whole = select(encoded, grid, spec)
    for cuts in ((1, 2, 3, 4, 5), (2, 5)):
        plan = Plan(compose(spec), grid, features.device)
        first, numbers = 0, []
        for stop in cuts:
            numbers.append(take(plan, first, stop, encoded.tiles(first, stop)).numbers)
            first = stop
        assert torch.equal(plan.positions(torch.cat(numbers)), torch.cat(whole.positions))


@pytest.fixture(scope="module")
def image(random_checkpoints):
    """A padded image as bytes, its grid, and what the tower says of it."""
    data = png(200, 300, seed=3)
    checkpoint = Checkpoint(str(random_checkpoints["llama"]))
    tower = VisionTower.load(checkpoint, dtype=torch.float32, device=torch.device("cpu"))
    tiled = PaddedCanvasTiler(checkpoint).cut(decode_image(data, IMAGE_LIMITS), UnpadRule.HUGGING_FACE)
    wanted = frozenset({TowerOutput.SALIENCE, TowerOutput.CLS_ATTENTION})
    parts = [tower(tiled.pixels[first : first + 2], wanted) for first in range(0, tiled.grid.num_tiles, 2)]
    outputs = {name: torch.cat([part.outputs[name] for part in parts]) for name in wanted}
    return data, tiled.grid, TileFeatures(torch.cat([part.features for part in parts]), outputs)


@pytest.mark.parametrize(
    ("method", "selection"),
    [
        ("divprune", None),
        ("cenprune", None),
        ("scope", None),
        ("globalcom2-diverse", None),
        ("globalcom2-cover", None),
        *(("globalcom2", name) for name in SELECTIONS),
    ],
)
async def test_through_a_service_in_small_batches(random_checkpoints, image, method, selection):
    data, grid, encoded = image
    assert sum(grid.valid_counts()) < grid.num_tiles * grid.cells_per_tile
    kept = select(encoded, grid, Compression(method, 0.3, selection=selection))
    compression = vision_tokens_pb2.Compression(method=method, retention_ratio=0.3, selection=selection)
    limits = BatchLimits(max_batch_tiles=2, max_wait_seconds=0.0, max_queued_tiles=64)
    async with running_encoder(random_checkpoints["llama"], batch=limits) as (_, stub):
        image_field = encoder_service_pb2.Image(data=data)
        assembler = None
        async for response in stub.Encode(
            encoder_service_pb2.EncodeRequest(image=image_field, compression=compression)
        ):
            if response.WhichOneof("event") == "header":
                header = response.header
                assembler = TokenAssembler(
                    grid_from_proto(header.grid), header.tokens, feature_size=header.format.feature_size
                )
            elif response.WhichOneof("event") == "tokens":
                assembler.add(response.tokens)
    arrived = assembler.finish()
    assert list(arrived.budgets) == kept.budgets
    assert arrived.positions.tolist() == torch.cat(kept.positions).tolist()
