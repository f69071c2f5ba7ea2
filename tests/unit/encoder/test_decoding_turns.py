"""The order in which images are decoded: memory for large ones, room for others, and images of several callers."""

import asyncio

import pytest
from visionsplit.errors import InvalidImageError
from visionsplit.images import ImageHeader
from visionsplit.serving.fairness import Claim, FairGate

from encoder_service.config import EncoderConfig
from encoder_service.pipeline.decoding_turns import DecodingTurns
from tests.unit.encoder.test_batching import queue, taken
from tests.unit.encoder.test_turns import of

MEBIBYTE = 2**20
DEFAULT = EncoderConfig.max_decoding_bytes


def header(mebibytes, *, apart=False):
    return ImageHeader(100, 100, mebibytes * MEBIBYTE, apart)


class Decoders:
    """Images that are being decoded, each until it is told to end."""

    def __init__(self, turns):
        self.turns = turns
        self.inside = []
        self.bytes = 0
        self.most_bytes = 0
        self.ends = asyncio.Event()

    def begin(self, name, one, caller="caller"):
        return asyncio.create_task(self._decode(name, one, Claim(caller)))

    async def _decode(self, name, one, claim):
        async with self.turns.turn(one, claim):
            self.inside.append(name)
            self.bytes += one.decoding_bytes
            self.most_bytes = max(self.most_bytes, self.bytes)
            await self.ends.wait()
            await asyncio.sleep(0)
            self.bytes -= one.decoding_bytes


async def settled():
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("large", "at_once", "ordinary"),
    [
        (header(1400), 1, 157),
        (header(600), 2, 157),
        (header(100, apart=True), 1, 500),
        (header(1400, apart=True), 1, 157),
    ],
    ids=["huge", "large", "slow", "slow and huge"],
)
async def test_ordinary_images_do_not_wait_for_large_or_slow_ones(large, at_once, ordinary):
    """Even those of the same caller: where no tokens are in use, many callers share an address."""
    decoders = Decoders(DecodingTurns(4, DEFAULT))
    tasks = [decoders.begin("large", large) for _ in range(20)]
    await settled()
    assert decoders.inside == at_once * ["large"]
    tasks += [decoders.begin("ordinary", header(ordinary)) for _ in range(4 - at_once)]
    await settled()
    assert decoders.inside[at_once:] == (4 - at_once) * ["ordinary"]
    decoders.ends.set()
    await asyncio.gather(*tasks)
    assert len(decoders.inside) == 24 - at_once


async def test_slow_images_keep_no_large_one_waiting_that_fits_beside_them():
    decoders = Decoders(DecodingTurns(4, DEFAULT))
    tasks = [decoders.begin("slow", header(400, apart=True)) for _ in range(3)]
    tasks.append(decoders.begin("large", header(800), caller="other"))
    await settled()
    assert decoders.inside == ["slow", "large"]
    decoders.ends.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(("threads", "mebibytes"), [(4, 500), (12, 157), (16, 53)])
async def test_ordinary_images_of_one_caller_use_all_threads(threads, mebibytes):
    decoders = Decoders(DecodingTurns(threads, DEFAULT))
    tasks = [decoders.begin("ordinary", header(mebibytes)) for _ in range(threads + 3)]
    await settled()
    assert len(decoders.inside) == threads
    decoders.ends.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(("threads", "at_once"), [(1, 1), (2, 1), (4, 2), (8, 4)])
async def test_large_images_leave_half_of_the_threads(threads, at_once):
    decoders = Decoders(DecodingTurns(threads, 8 * DEFAULT))
    tasks = [decoders.begin("large", header(600)) for _ in range(10)]
    await settled()
    assert len(decoders.inside) == at_once
    decoders.ends.set()
    await asyncio.gather(*tasks)


async def test_decoding_keeps_to_its_memory():
    decoders = Decoders(DecodingTurns(4, 128 * MEBIBYTE))
    sizes = (96, 8, 60, 8, 30, 8, 90, 9, 40)
    tasks = [
        decoders.begin(size, header(size, apart=apart), caller=str(size % 3))
        for size in sizes
        for apart in (False, True)
    ]
    decoders.ends.set()
    await asyncio.gather(*tasks)
    assert decoders.most_bytes <= 128 * MEBIBYTE
    assert len(decoders.inside) == 2 * len(sizes)


async def test_an_image_that_never_fits_is_refused():
    turns = DecodingTurns(4, 128 * MEBIBYTE)
    turns.check(header(96))
    with pytest.raises(InvalidImageError, match="takes up to 97 MiB; this encoder has 96 MiB"):
        turns.check(header(97))


async def test_one_who_waits_for_several_places_is_passed_by_nobody_and_holds_nobody_up_once_gone():
    gate, order = FairGate(4), []

    async def enter(name, places, leave):
        async with gate.place(name, places):
            order.append(name)
            await leave.wait()

    first, later = asyncio.Event(), asyncio.Event()
    tasks = [asyncio.create_task(enter("two", 2, first))]
    await settled()
    wide = asyncio.create_task(enter("four", 4, later))
    await settled()
    tasks.append(asyncio.create_task(enter("one", 1, later)))
    await settled()
    assert order == ["two"]
    wide.cancel()
    await settled()
    assert order == ["two", "one"]
    first.set()
    later.set()
    await asyncio.gather(*tasks)


async def test_work_that_a_second_caller_wants_waits_where_its_turn_comes_first():
    gate, order, leave = FairGate(1), [], asyncio.Event()

    async def enter(name, claim):
        async with gate.place(claim):
            order.append(name)
            await leave.wait()

    claims = [Claim("heavy") for _ in range(6)]
    tasks = [asyncio.create_task(enter(number, claim)) for number, claim in enumerate(claims)]
    await settled()
    claims[5].join("light")
    claims[1].join("light")  # it is the first of its line already
    assert [claim.caller for claim in claims] == [*5 * ["heavy"], "light"]
    leave.set()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 5, 2, 3, 4]


def test_an_image_in_the_queue_that_a_second_caller_wants_comes_in_its_turn():
    waiting = queue(4)
    heavy = [of("heavy") for _ in range(8)]
    waiting.put(heavy)
    waiting.hasten(heavy[7], "light")
    waiting.hasten(heavy[0], "light")  # nothing waits before it
    assert [one.caller for one in heavy] == [*7 * ["heavy"], "light"]
    assert (heavy[7], 0) in [(one, first) for one, first, _ in taken(waiting.take())]
    waiting.hasten(heavy[7], "third")
    assert heavy[7].caller == "light"
    tiles = 0
    while heavy[7].next_tile < heavy[7].num_tiles:
        tiles += sum(stop - first for _, first, stop in taken(waiting.take()))
    assert tiles <= 12
    waiting.hasten(heavy[7], "third")  # it is on the device
    for one in heavy:
        waiting.remove(one)
    assert waiting.queued_tiles == 0
