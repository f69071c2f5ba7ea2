"""Many callers, one device: turns among them, and no tile for a call that was given up."""

import asyncio
import threading
from contextlib import ExitStack

import grpc
import pytest
from visionsplit.errors import OverloadedError
from visionsplit.v1 import encoder_service_pb2
from visionsplit.wire.grpc_status import error_from_rpc

from encoder_service.api.call_admission import AnswerQueue
from encoder_service.config import BatchLimits
from encoder_service.device.batch_encoder import BatchEncoder
from encoder_service.pipeline.tile_capacity import TileCapacity
from tests.unit.encoder.helpers import png, running_encoder
from tests.unit.encoder.test_batching import job, queue, taken


def of(caller, **size):
    one = job(**size)
    one.caller = caller
    return one


def test_a_caller_with_one_image_is_not_behind_one_with_a_hundred():
    waiting = queue(4)
    heavy = [of("heavy") for _ in range(100)]
    waiting.put(heavy)
    waiting.take()
    light = of("light")
    waiting.put([light])
    batches = [waiting.take()]
    assert light in batches[0]
    while light.next_tile < light.num_tiles:
        batches.append(waiting.take())
    assert len(batches) <= 3  # five tiles, half of each batch
    assert all(one.next_tile == 0 for one in heavy[12:])


def test_every_caller_gets_a_thumbnail_in_before_anybody_gets_a_second():
    waiting = queue(3)
    a1, a2, b1, c1 = of("a"), of("a"), of("b"), of("c")
    waiting.put([a1, a2])
    waiting.put([b1])
    waiting.put([c1])
    assert taken(waiting.take()) == [(a1, 0, 1), (b1, 0, 1), (c1, 0, 1)]
    # a's second thumbnail comes before everybody's crops, which share what is left.
    assert taken(waiting.take()) == [(a2, 0, 1), (b1, 1, 2), (c1, 1, 2)]
    assert taken(waiting.take()) == [(a1, 1, 2), (b1, 2, 3), (c1, 2, 3)]
    for one in (a1, b1):
        waiting.remove(one)
    assert taken(waiting.take()) == [(a2, 1, 3), (c1, 3, 4)]


def test_one_callers_images_leave_room_for_others():
    room = TileCapacity(20, caller_share=0.75)
    room.reserve([5, 5, 5], "heavy")
    with pytest.raises(OverloadedError, match="15 tiles of this caller are waiting; 5 more exceed its part of 15"):
        room.reserve([5], "heavy")
    (place,) = room.reserve([5], "light")
    with pytest.raises(OverloadedError, match="20 tiles are waiting") as caught:
        room.reserve([5], "third")
    assert caught.value.retry_after_seconds > 0
    place.release()
    room.reserve([5], "third")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_request_is_refused_for_the_tiles_ahead_of_it_alone():
    """The example of docs/admission.md."""
    clock = Clock()
    room = TileCapacity(1024, caller_share=0.75, batch_tiles=16, clock=clock)
    (of_a,) = room.reserve([500], "A")
    room.reserve([20], "B")
    for _ in range(20):
        clock.now += 0.25  # 40 tiles a second, one batch after the other
        of_a.note_encoded(10)
    assert room.taken == 520
    assert room.seconds_to_wait(5, "C") == 0
    room.reserve([5], "C", clock.now + 0.01)[0].release()
    with pytest.raises(OverloadedError, match=r"about 7\.6 seconds, and its deadline is in 10\.0") as caught:
        room.reserve([5], "A", clock.now + 10)
    assert caught.value.retry_after_seconds == pytest.approx(305 / 40 - 7.5)
    room.reserve([5], "A", clock.now + 20)
    of_a.release()  # a large part of the queue is given up
    room.reserve([5], "A", clock.now + 1)


def test_calls_without_text_are_what_a_new_one_waits_for():
    clock = Clock()
    queue = AnswerQueue(clock)
    with ExitStack() as held:
        texts = [held.enter_context(queue.call("A", 1000.0)) for _ in range(60)]
        for text in texts[:36]:
            clock.now += 0.5
            text()
            text()  # only the first text counts
        with pytest.raises(OverloadedError, match=r"about 12\.5 seconds") as caught, queue.call("A", 20.0):
            pass
        assert caught.value.retry_after_seconds == pytest.approx(2.5)
        with queue.call("A", None), queue.call("A", 30.0), queue.call("B", 4.0):
            pass  # calls of A are behind A's own; B waits for one of them
        for text in texts[36:46]:
            text()
        clock.now += 1000.0
        with queue.call("A", 0.1):
            pass  # fewer are left than are served at once, however long they last
        assert queue.waiting == 14
    assert queue.waiting == 0


@pytest.fixture
def gate(monkeypatch):
    """A device that waits for permits, and counts its tiles."""

    class Gate:
        def __init__(self):
            self.permits = threading.Semaphore(0)
            self.tiles = 0
            self.waiting = False

    gate, encode = Gate(), BatchEncoder.encode

    def gated(self, spans):
        gate.waiting = True
        gate.permits.acquire()
        gate.waiting = False
        gate.tiles += sum(span.stop - span.first for span in spans)
        return encode(self, spans)

    monkeypatch.setattr(BatchEncoder, "encode", gated)
    yield gate
    gate.permits.release(1000)


async def settles(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for belongs to another thread
            await asyncio.sleep(0.01)


async def all_of(call):
    return [response async for response in call]


async def ended(call):
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        async for _ in call:
            pass
    return failure.value


@pytest.mark.parametrize("how", ["deadline", "cancel"])
async def test_a_call_that_ends_while_it_waits_costs_no_tile(random_checkpoints, gate, how):
    batch = BatchLimits(max_batch_tiles=5, max_wait_seconds=0.0, max_queued_tiles=100)
    async with running_encoder(random_checkpoints["llama"], batch=batch) as (server, stub):

        def encode(seed, **options):
            image = encoder_service_pb2.Image(data=png(112, 112, seed))
            return stub.Encode(encoder_service_pb2.EncodeRequest(image=image), **options)

        first = asyncio.ensure_future(all_of(encode(0)))
        await settles(lambda: server._pipeline.reserved_tiles == 5 and gate.waiting)
        waiting = [encode(1 + number, timeout=1.5 if how == "deadline" else 60) for number in range(4)]
        ends = [asyncio.ensure_future(all_of(call)) for call in waiting]
        if how == "cancel":
            await settles(lambda: server._batcher.queued_tiles == 20)
            for call in waiting:
                call.cancel()
        outcomes = await asyncio.gather(*ends, return_exceptions=True)
        assert not any(isinstance(outcome, list) for outcome in outcomes)
        await settles(lambda: not server._batcher.queued_tiles and server._pipeline.reserved_tiles == 5)
        gate.permits.release(100)
        assert await first
        assert gate.tiles == 5


async def test_a_full_encoder_says_when_to_come_back(random_checkpoints, gate):
    async with running_encoder(random_checkpoints["llama"], max_calls=1) as (_, stub):
        request = encoder_service_pb2.EncodeRequest(image=encoder_service_pb2.Image(data=png(112, 112)))
        running = asyncio.ensure_future(all_of(stub.Encode(request)))
        await settles(lambda: gate.waiting)
        error = error_from_rpc(await ended(stub.Encode(request)))
        assert isinstance(error, OverloadedError)
        assert error.retry_after_seconds > 0
        gate.permits.release(100)
        assert await running
