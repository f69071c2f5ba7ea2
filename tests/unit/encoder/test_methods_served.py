"""Every method in a real encoder service, where images share forward passes and their tiles come in pieces."""

import asyncio
import time

import numpy as np
import pytest
import torch
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.llava_next.vision_tower import VisionTower
from visionsplit.families.padded_canvas import PaddedCanvasTiler
from visionsplit.grid import UnpadRule
from visionsplit.options.compression import Compression
from visionsplit.options.data_types import DataType
from visionsplit.v1 import encoder_service_pb2, tensor_pb2, vision_tokens_pb2
from visionsplit.wire.vision_tokens import TokenAssembler, grid_from_proto

from encoder_service.compression import METHODS, compose, select
from encoder_service.config import BatchLimits
from encoder_service.device.batch_encoder import BatchEncoder
from encoder_service.device.encoding import EncodeRequest, ImageEncoding, PreparedImage, TileSpan
from tests.unit.encoder.helpers import drawn_image, file_of, running_encoder

SIZES = [(300, 180), (90, 260), (640, 90), (57, 112)]
# Those that read the prompt are in test_cdpruner_served.py.
SPECS = [Compression(method, ratio) for method in METHODS if method != "none" for ratio in (0.25, 0.6)]
SPECS = [spec for spec in SPECS if not compose(spec).reads_text]
SPECS += [Compression(method, None) for method in ("prumerge", "prumerge+")]
SPECS += [Compression("globalcom2", 0.3, budget="pooled", merging="prumerge")]


@pytest.fixture(scope="module")
def expected(random_checkpoints):
    """What `select` keeps of a whole image: size and specification to (budgets, positions, features)."""
    checkpoint = Checkpoint(str(random_checkpoints["llama"]))
    tower = VisionTower.load(checkpoint, dtype=torch.float32, device=torch.device("cpu"))
    tiler = PaddedCanvasTiler(checkpoint)

    def of(size, spec):
        tiles = tiler.cut(drawn_image(*size, seed=sum(size)), UnpadRule.HUGGING_FACE)
        kept = select(tower(tiles.pixels, compose(spec).needs), tiles.grid, spec)
        return kept.budgets, torch.cat(kept.positions).numpy(), kept.features.numpy()

    return of


def request_for(size, spec):
    compression = vision_tokens_pb2.Compression(
        method=spec.method, retention_ratio=spec.retention_ratio, budget=spec.budget, merging=spec.merging
    )
    return encoder_service_pb2.EncodeRequest(
        image=encoder_service_pb2.Image(data=file_of(drawn_image(*size, seed=sum(size)))),
        compression=compression,
        data_type=tensor_pb2.DATA_TYPE_FLOAT32,
    )


async def encoded(stub, size, spec):
    """The checked tokens, and how many messages brought them."""
    assembler, chunks = None, 0
    async for response in stub.Encode(request_for(size, spec)):
        if response.HasField("header"):
            header = response.header
            assembler = TokenAssembler(
                grid_from_proto(header.grid), header.tokens, feature_size=header.format.feature_size
            )
        elif response.HasField("tokens"):
            assembler.add(response.tokens)
            chunks += 1
    return assembler.finish(), chunks


def tile_by_tile(positions, features):
    """The tokens sorted by tile, row and column: the service may send a tile's tokens in any order."""
    order = np.lexsort(positions.T[::-1])
    return positions[order], features[order]


def compare(tokens, expectation, spec, size):
    budgets, positions, features = expectation
    assert list(tokens.budgets) == budgets, (spec, size)
    places, values = tile_by_tile(tokens.positions, tokens.features.to_float32())
    expected_places, expected_values = tile_by_tile(positions, features)
    assert np.array_equal(places, expected_places), (spec, size)
    np.testing.assert_allclose(values, expected_values, rtol=1e-4, atol=1e-4, err_msg=f"{spec} {size}")


@pytest.mark.parametrize("max_batch_tiles", [2, 7])
async def test_every_method_gives_each_caller_what_it_gives_a_whole_image(
    random_checkpoints, expected, max_batch_tiles
):
    """All specifications and images at once: passes hold tiles of several images, methods and needs."""
    cases = [(size, spec) for spec in SPECS for size in SIZES]
    limits = BatchLimits(max_batch_tiles, max_wait_seconds=0.002, max_queued_tiles=4096)
    async with running_encoder(random_checkpoints["llama"], batch=limits, max_calls=1024) as (_, stub):
        results = await asyncio.gather(*(encoded(stub, size, spec) for size, spec in cases))
    for (size, spec), (tokens, _) in zip(cases, results, strict=True):
        compare(tokens, expected(size, spec), spec, size)


async def test_a_method_without_a_ratio_keeps_a_quarter_by_request_and_by_default(random_checkpoints, expected):
    size, alone, quarter = SIZES[0], Compression("globalcom2"), Compression("globalcom2", 0.25)
    async with running_encoder(random_checkpoints["llama"], method=alone.method) as (_, stub):
        tokens, _ = await encoded(stub, size, alone)
        request = request_for(size, alone)
        request.ClearField("compression")
        by_default = [reply async for reply in stub.Encode(request)]
        info = await stub.GetEncoderInfo(encoder_service_pb2.GetEncoderInfoRequest())
    compare(tokens, expected(size, quarter), quarter, size)
    assert by_default[-1].summary.tokens_after == len(tokens.positions)
    assert (info.default_compression.method, info.default_compression.retention_ratio) == ("globalcom2", 0.25)


@pytest.mark.parametrize("spec", [Compression("prumerge+", 0.3), Compression("prumerge")])
async def test_a_method_that_waits_sends_all_at_once(random_checkpoints, expected, spec):
    limits = BatchLimits(max_batch_tiles=2, max_wait_seconds=0.002, max_queued_tiles=64)
    async with running_encoder(random_checkpoints["llama"], batch=limits) as (_, stub):
        tokens, chunks = await encoded(stub, (300, 180), spec)
        assert chunks == 1
        compare(tokens, expected((300, 180), spec), spec, (300, 180))
        _, chunks = await encoded(stub, (300, 180), Compression("prumerge", 0.3))
        assert chunks > 1


def test_the_time_of_an_image_that_waits_counts_from_its_first_pass(random_checkpoints):
    checkpoint = Checkpoint(str(random_checkpoints["llama"]))
    encoder = BatchEncoder(VisionTower.load(checkpoint, dtype=torch.float32, device=torch.device("cpu")))
    tiles = PaddedCanvasTiler(checkpoint).cut(drawn_image(200, 200), UnpadRule.HUGGING_FACE)
    image = PreparedImage(tiles.pixels, tiles.grid)
    encoding = ImageEncoding(EncodeRequest(image, compose(Compression("prumerge")), DataType.FLOAT32))
    assert encoder.encode([TileSpan(encoding, 0, 2)]) == [None]
    assert encoder.encode([TileSpan(encoding, 2, 3)]) == [None]
    between, held = time.monotonic(), encoding.held_seconds
    (result,) = encoder.encode([TileSpan(encoding, 3, 5)])
    assert result.stop_tile == 5
    assert result.started + held < between
    assert result.seconds > held > 0
