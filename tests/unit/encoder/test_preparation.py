"""The resources that cancelled calls hold while their work continues, and for how long."""

import asyncio
import threading
import time

import pytest
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.padded_canvas import PaddedCanvasTiler
from visionsplit.images import ImageLimits, decode_image
from visionsplit.serving.fairness import Claim

from encoder_service.config import EncoderConfig
from encoder_service.pipeline.pipeline import EncoderPipeline
from encoder_service.pipeline.preparation import Preparation
from tests.unit.encoder.helpers import png
from tests.unit.encoder.test_batching import GLOBALCOM2, WANTED

SLOW = b"P2 5000 4000 255\n" + b"1 " * 20_000_000  # decoded in another process, for many seconds


class Decoder:
    """Stands for `decode_image`: waits until it may end."""

    def __init__(self):
        self.may_end = threading.Event()
        self.entered = 0
        self.inside = 0

    def __call__(self, data, limits):
        self.entered += 1
        self.inside += 1
        assert self.may_end.wait(20)
        self.inside -= 1
        return decode_image(data, limits)


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - threads do not notify
            await asyncio.sleep(0.005)


@pytest.fixture
def decoder(monkeypatch):
    decoder = Decoder()
    monkeypatch.setattr("encoder_service.pipeline.preparation.decode_image", decoder)
    yield decoder
    decoder.may_end.set()


@pytest.fixture
def tiler(random_checkpoints):
    return PaddedCanvasTiler(Checkpoint(str(random_checkpoints["llama"])))


@pytest.fixture
def preparation(tiler):
    limits = ImageLimits()
    memory = EncoderConfig.max_decoding_bytes
    preparation = Preparation(tiler, limits, threads=2, max_bytes=memory, digests=False, text_tower=None)
    yield preparation
    preparation.close()


async def prepare(preparation, data, caller="caller"):
    (header,) = await preparation.headers([data], caller)
    return await preparation.prepare(data, header, GLOBALCOM2.layout, Claim(caller))


async def test_images_of_calls_that_were_given_up_keep_their_turn_until_they_are_decoded(preparation, decoder):
    given_up = [asyncio.create_task(prepare(preparation, png(60, 60))) for _ in range(2)]
    await until(lambda: decoder.inside == 2)
    for task in given_up:
        task.cancel()
    other = asyncio.create_task(prepare(preparation, png(60, 60), "other"))
    await asyncio.sleep(0.1)
    assert decoder.entered == 2
    assert not any(task.done() for task in given_up)
    decoder.may_end.set()
    assert (await other).grid.num_tiles
    ended = await asyncio.gather(*given_up, return_exceptions=True)
    assert [type(one) for one in ended] == 2 * [asyncio.CancelledError]


async def test_a_header_of_a_call_that_was_given_up_keeps_its_turn(preparation, monkeypatch):
    """As do embeddings of texts and look-ups in the cache, which wait for their threads in the same way."""
    may_end, entered = threading.Event(), []

    def read(data, limits):
        entered.append(data)
        assert may_end.wait(20)
        raise ValueError

    monkeypatch.setattr("encoder_service.pipeline.preparation.read_header", read)
    task = asyncio.create_task(preparation.headers([b"image"], "caller"))
    await until(lambda: entered)
    task.cancel()
    await asyncio.sleep(0.1)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_tiles_of_a_call_that_was_given_up_keep_their_place_until_the_image_is_decoded(tiler, decoder):
    pipeline = EncoderPipeline(tiler, None, ImageLimits(), threads=1, max_tiles=12, batch_tiles=2)

    async def prepared():
        async with pipeline.prepared([png(200, 200)], WANTED):
            pass

    call = asyncio.create_task(prepared())
    await until(lambda: decoder.inside)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call  # at once: the call itself does not wait
    assert pipeline.reserved_tiles == 5
    decoder.may_end.set()
    await until(lambda: not pipeline.reserved_tiles)
    pipeline.close()


async def test_a_process_that_decodes_for_a_call_that_was_given_up_is_ended(preparation):
    task = asyncio.create_task(prepare(preparation, SLOW))
    await until(lambda: preparation._decoders)
    await asyncio.sleep(0.3)
    task.cancel()
    started = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 2


async def test_a_process_that_decodes_is_ended_with_the_service(preparation):
    task = asyncio.create_task(prepare(preparation, SLOW))
    await until(lambda: preparation._decoders)
    await asyncio.sleep(0.3)
    started = time.monotonic()
    preparation.close()
    assert time.monotonic() - started < 2
    assert await asyncio.gather(task, return_exceptions=True)


async def test_photos_do_not_wait_for_images_that_are_decoded_in_another_process(preparation):
    slow = [asyncio.create_task(prepare(preparation, SLOW)) for _ in range(3)]
    await until(lambda: preparation._decoders)
    async with asyncio.timeout(5):
        await asyncio.gather(*[prepare(preparation, png(60, 60)) for _ in range(4)])
    assert not any(task.done() for task in slow)
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
