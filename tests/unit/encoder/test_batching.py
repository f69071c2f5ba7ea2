"""Tiles of different images share batches on the device."""

import asyncio
import threading
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from visionsplit.errors import (
    InternalError,
    InvalidCompressionError,
    InvalidImageError,
    OverloadedError,
    UnavailableError,
)
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.llava_next.vision_tower import VisionTower
from visionsplit.families.padded_canvas import PaddedCanvasTiler
from visionsplit.grid import TileGrid
from visionsplit.images import ImageLimits, decode_image
from visionsplit.options.compression import Compression
from visionsplit.options.data_types import DataType

from encoder_service.caching.tokens import TokenCache
from encoder_service.compression import compose
from encoder_service.config import BatchLimits, CacheLimits
from encoder_service.device.batch_encoder import BatchEncoder
from encoder_service.device.encoding import EncodeRequest, PreparedImage
from encoder_service.device.tile_queue import QueuedImage, TileBatcher, TileQueue
from encoder_service.pipeline.events import BudgetsKnown, ImageDone, TokensReady
from encoder_service.pipeline.pipeline import EncoderPipeline
from encoder_service.pipeline.shared_encoding import TokensWanted
from tests.unit.encoder.helpers import png

ROOM = 12  # tiles
GLOBALCOM2 = compose(Compression("globalcom2", 0.5))
WANTED = TokensWanted(GLOBALCOM2, DataType.FLOAT32)


def job(rows=2, columns=2):
    grid = TileGrid.padded(56 * rows, 56 * columns, rows=rows, columns=columns, side=4)
    image = PreparedImage(torch.zeros(grid.num_tiles, 3, 56, 56, dtype=torch.uint8), grid)
    return QueuedImage(EncodeRequest(image, GLOBALCOM2, DataType.FLOAT32), lambda result: None)


def queue(tiles):
    return TileQueue(BatchLimits(max_batch_tiles=tiles, max_wait_seconds=0, max_queued_tiles=100))


def taken(batch):
    return [(image, span.first, span.stop) for image, span in batch.items()]


def test_thumbnails_come_first_then_crops_of_the_oldest():
    waiting, a, b = queue(4), job(), job(1, 2)
    waiting.put([a])
    waiting.put([b])
    assert taken(waiting.take()) == [(a, 0, 3), (b, 0, 1)]
    c = job()
    waiting.put([c])
    assert taken(waiting.take()) == [(c, 0, 1), (a, 3, 5), (b, 1, 2)]
    assert taken(waiting.take()) == [(b, 2, 3), (c, 1, 4)]
    assert taken(waiting.take()) == [(c, 4, 5)]


def test_a_removed_image_takes_no_further_place():
    waiting, a, b = queue(3), job(), job()
    waiting.put([a, b])
    assert taken(waiting.take()) == [(a, 0, 2), (b, 0, 1)]
    waiting.remove(a)
    waiting.remove(a)
    assert taken(waiting.take()) == [(b, 1, 4)]
    assert taken(waiting.take()) == [(b, 4, 5)]
    waiting.remove(b)


def test_an_incomplete_batch_waits_for_company():
    waiting = TileQueue(BatchLimits(max_batch_tiles=10, max_wait_seconds=60, max_queued_tiles=100))
    a, b = job(), job()
    waiting.put([a])
    batches = []
    taker = threading.Thread(target=lambda: batches.append(waiting.take()))
    taker.start()
    waiting.put([b])
    taker.join(10)
    assert taken(batches[0]) == [(a, 0, 5), (b, 0, 5)]


def test_a_closed_queue_gives_back_what_waits():
    waiting, a = queue(2), job()
    waiting.put([a])
    assert waiting.close() == [a]
    assert waiting.take() == {}
    with pytest.raises(UnavailableError):
        waiting.put([job()])


class WatchedEncoder(BatchEncoder):
    """Counts tiles, can be held before each batch, and can fail."""

    def __init__(self, tower):
        super().__init__(tower)
        self.encoded = 0
        self.batches = 0
        self.permits = threading.Semaphore(0)
        self.failures = 0

    def encode(self, spans):
        self.permits.acquire()
        self.batches += 1
        if self.failures:
            self.failures -= 1
            raise torch.OutOfMemoryError("no memory")
        self.encoded += sum(span.stop - span.first for span in spans)
        return super().encode(spans)


@pytest.fixture
def device(random_checkpoints):
    checkpoint = Checkpoint(str(random_checkpoints["llama"]))
    encoder = WatchedEncoder(VisionTower.load(checkpoint, dtype=torch.float32, device=torch.device("cpu")))
    limits = BatchLimits(max_batch_tiles=2, max_wait_seconds=0, max_queued_tiles=ROOM)
    batcher = TileBatcher(encoder, limits)
    batcher.start()
    pipeline = EncoderPipeline(
        PaddedCanvasTiler(checkpoint), batcher, ImageLimits(), threads=2, max_tiles=ROOM, batch_tiles=2
    )
    yield encoder, pipeline
    encoder.permits.release(1000)
    batcher.stop()
    pipeline.close()


async def events_of(pipeline, images, composition=GLOBALCOM2):
    async with (
        pipeline.prepared(images, TokensWanted(composition, DataType.FLOAT32)) as prepared,
        aclosing(pipeline.encode(prepared, call_start=0.0)) as events,
    ):
        async for event in events:
            yield event


async def test_the_first_tokens_leave_while_later_tiles_wait(device):
    encoder, pipeline = device
    events = events_of(pipeline, [png(200, 200)])
    encoder.permits.release()
    assert isinstance(await anext(events), BudgetsKnown)
    first = await anext(events)
    assert isinstance(first, TokensReady)
    assert set(first.positions[:, 0].tolist()) == {0, 1}
    assert encoder.encoded == 2
    encoder.permits.release(10)
    rest = [event async for event in events]
    assert encoder.encoded == 5
    assert [sorted(set(event.positions[:, 0].tolist())) for event in rest[:-1]] == [[2, 3], [4]]
    assert isinstance(rest[-1], ImageDone)


async def test_a_closed_stream_costs_no_further_tile(device):
    encoder, pipeline = device
    events = events_of(pipeline, [png(200, 200), png(200, 200, 1)])
    encoder.permits.release()
    await anext(events)
    await events.aclose()
    encoder.permits.release(10)
    other = events_of(pipeline, [png(50, 100, 2)])
    tiles = [event async for event in other][-1].grid.num_tiles
    assert encoder.encoded <= 2 + 2 + tiles  # one batch may have been taken before the stream was closed


async def test_a_failed_forward_pass_costs_only_its_own_images(device):
    encoder, pipeline = device
    encoder.failures = 1
    first = events_of(pipeline, [png(200, 200)])
    encoder.permits.release(20)
    with pytest.raises(InternalError, match="vision tower failed"):
        await anext(first)
    second = events_of(pipeline, [png(200, 200)])
    assert isinstance([event async for event in second][-1], ImageDone)


async def test_an_image_that_keeps_nothing_fails_alone(device):
    encoder, pipeline = device
    encoder.permits.release(50)
    nothing = events_of(pipeline, [png(200, 200)], compose(Compression("globalcom2", 0.001)))
    other = events_of(pipeline, [png(200, 200)])

    async def run(events):
        return [event async for event in events]

    failed, done = cast("tuple[Any, Any]", await asyncio.gather(run(nothing), run(other), return_exceptions=True))
    assert isinstance(failed, InvalidCompressionError)
    assert isinstance(done[-1], ImageDone)


@pytest.fixture
def cut(monkeypatch):
    """The sizes of the images that have been decoded."""
    sizes = []

    def recorded(data, limits):
        image = decode_image(data, limits)
        sizes.append(image.size)
        return image

    monkeypatch.setattr("encoder_service.pipeline.preparation.decode_image", recorded)
    return sizes


async def test_what_has_no_room_is_refused_before_it_is_decoded(device, cut):
    encoder, pipeline = device
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(pipeline.prepared([png(200, 200), png(200, 200)], WANTED))
        with pytest.raises(OverloadedError, match="10 tiles are waiting; 4 more exceed the limit of 12"):
            await stack.enter_async_context(pipeline.prepared([png(50, 120)], WANTED))
        assert cut == [(200, 200)] * 2
    with pytest.raises(OverloadedError, match="make 15 tiles; this encoder's limit is 12"):
        await anext(events_of(pipeline, [png(200, 200)] * 3))
    assert cut == [(200, 200)] * 2
    encoder.permits.release(10)
    assert isinstance([event async for event in events_of(pipeline, [png(200, 200)] * 2)][-1], ImageDone)


async def test_every_end_gives_the_room_back(device):
    encoder, pipeline = device
    full = [png(200, 200), png(200, 200)]
    for bad in ([png(200, 200), b"no image"], [png(200, 200), png(200, 200)[:-600]]):
        with pytest.raises(InvalidImageError, match="image 1"):
            await anext(events_of(pipeline, bad))
    waiting = asyncio.create_task(anext(events_of(pipeline, full)))
    await asyncio.sleep(0.2)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    encoder.permits.release(50)
    assert isinstance([event async for event in events_of(pipeline, full)][-1], ImageDone)
    encoder.failures = 1
    with pytest.raises(InternalError):
        await anext(events_of(pipeline, full))
    assert isinstance([event async for event in events_of(pipeline, full)][-1], ImageDone)


async def test_an_encoded_image_takes_no_more_room_while_its_answer_is_awaited(device):
    encoder, pipeline = device
    encoder.permits.release(50)
    async with pipeline.prepared([png(200, 200), png(200, 200)], WANTED) as prepared:
        assert [image.image.pixels.shape[0] for image in prepared] == [5, 5]
        async with aclosing(pipeline.encode(prepared, call_start=0.0)) as events:
            async for _ in events:
                pass
        assert [image.image.pixels.numel() for image in prepared] == [0, 0]
        assert isinstance([event async for event in events_of(pipeline, [png(200, 200)] * 2)][-1], ImageDone)


async def test_an_image_that_a_light_caller_joins_leaves_the_heavy_callers_line(random_checkpoints, monkeypatch):
    images, order, go = [png(120, 120, 50 + number) for number in range(8)], [], threading.Event()

    def recorded(data, limits):
        order.append(images.index(data))
        assert go.wait(20)
        return decode_image(data, limits)

    async def prepared(data, caller):
        async with pipeline.prepared([data], replace(WANTED, caller=caller)):
            pass

    monkeypatch.setattr("encoder_service.pipeline.preparation.decode_image", recorded)
    checkpoint = Checkpoint(str(random_checkpoints["llama"]))
    tower = VisionTower.load(checkpoint, dtype=torch.float32, device=torch.device("cpu"))
    cache = TokenCache(CacheLimits(), encoder="e", device=tower.device)
    batcher = TileBatcher(BatchEncoder(tower), BatchLimits(2, 0, 100))
    pipeline = EncoderPipeline(
        PaddedCanvasTiler(checkpoint), batcher, ImageLimits(), threads=1, max_tiles=100, batch_tiles=2, cache=cache
    )
    async with asyncio.timeout(30):
        heavy = [asyncio.create_task(prepared(data, "heavy")) for data in images]
        while cache.counts().misses < len(images):  # noqa: ASYNC110 - a count does not notify
            await asyncio.sleep(0.01)
        waiting = next(number for number in range(7, -1, -1) if number not in order)
        light = asyncio.create_task(prepared(images[waiting], "light"))
        while not cache.counts().joined:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        go.set()
        await asyncio.gather(light, *heavy)
    assert order.index(waiting) <= 2
    pipeline.close()
