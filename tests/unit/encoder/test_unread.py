"""Generate calls whose callers read nothing: they delay neither the services nor other calls."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from visionsplit.errors import DeadlineError, InvalidSamplingError
from visionsplit.serving import sending
from visionsplit.v1 import encoder_service_pb2, generation_pb2

from benchmarks.load.system import free_port
from encoder_service.llm.outbox import Outbox
from tests.fuzzing.attacks.http2 import Http2Client
from tests.unfinished import prefix
from tests.unit.encoder.helpers import FakeLlm, abort, png, running_encoder, running_llm

GENERATE = "/visionsplit.v1.EncoderService/Generate"
CALLS = 20  # more than an encoder serves at once by its own measure


@pytest.fixture
def model(random_checkpoints):
    return random_checkpoints["llama"]


def request(seed: int):
    image = encoder_service_pb2.Image(data=png(112, 112, seed))
    return encoder_service_pb2.EncoderServiceGenerateRequest(
        images=[image, image], prompt=generation_pb2.Prompt(text="x")
    )


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in gRPC
            await asyncio.sleep(0.05)


@asynccontextmanager
async def unread_calls(model, llm: FakeLlm):
    """An encoder with calls whose answers have no room to go to, as their window is 0; its server and a stub."""
    listen = f"127.0.0.1:{free_port()}"
    async with (
        running_llm(llm) as address,
        running_encoder(model, llm=address, listen=listen) as (server, stub),
        Http2Client.connected(listen, window=0) as client,
    ):
        streams = [await client.begin(GENERATE) for _ in range(CALLS)]
        for number, stream in enumerate(streams):
            body = request(number).SerializeToString()
            await client.send(stream, prefix(len(body)) + body, end=True)
        yield server, stub


class Refusing(FakeLlm):
    """Refuses whole uploads, while it is told to."""

    refuses = False

    async def Generate(self, request_iterator, context):  # noqa: N802
        if not self.refuses:
            return await super().Generate(request_iterator, context)
        self.received.extend([request async for request in request_iterator])
        await abort(context, InvalidSamplingError("top_p is 7"))


@pytest.mark.parametrize("refuses", [False, True])
async def test_callers_that_do_not_read_are_not_waited_for(model, refuses):
    fake = Refusing()
    fake.refuses = refuses
    async with unread_calls(model, fake) as (server, stub):
        await until(lambda: len(fake.parts("image")) == 2 * CALLS)
        await until(lambda: server._admission.answers.waiting == 0)
        fake.refuses = False
        answer = [response async for response in stub.Generate(request(99), timeout=5)]
        events = [response.WhichOneof("event") for response in answer]
        assert events == ["image", "image", "delta", "delta", "summary"]
        assert server._admission.active == CALLS  # each holds its own place


class Slow(FakeLlm):
    """Has no text."""

    inside = 0

    async def Generate(self, request_iterator, context):  # noqa: N802
        self.inside += 1
        try:
            async for request in request_iterator:
                self.received.append(request)
            await asyncio.sleep(60)
        finally:
            self.inside -= 1


async def test_a_call_of_which_nothing_is_read_ends_though_it_waits_for_its_text(model, monkeypatch):
    monkeypatch.setattr(sending, "UNREAD_SECONDS", 1.0)
    fake = Slow()
    async with unread_calls(model, fake) as (server, _):
        await until(lambda: fake.inside == CALLS)
        await until(lambda: server._admission.active == 0)
        await until(lambda: fake.inside == 0)


async def test_messages_keep_their_order_and_those_behind_a_lost_one_are_not_written():
    written, go_on = [], asyncio.Event()

    async def write(message):
        await go_on.wait()
        if message == "lost":
            raise DeadlineError("nothing was read")
        written.append(message)

    outbox: Outbox[object] = Outbox(write)
    async with outbox.open():
        for number in range(3):
            outbox.put(number)
        await asyncio.sleep(0)
        go_on.set()
        await outbox.send(3)
        outbox.put(4)
        await outbox.send(5)
    assert written == [0, 1, 2, 3, 4, 5]
    outbox = Outbox(write)

    async def call():
        async with outbox.open():
            outbox.put("lost")
            outbox.put(6)
            await asyncio.sleep(20)

    with pytest.raises(DeadlineError, match="nothing was read"):
        await call()
    assert 6 not in written


async def test_a_write_is_over_before_its_call_is():
    written, go_on = [], asyncio.Event()

    async def write(message):
        await go_on.wait()
        written.append(message)

    async def call():
        outbox: Outbox[int] = Outbox(write)
        async with outbox.open():
            outbox.put(1)
            outbox.put(2)
            await asyncio.sleep(0)
            raise DeadlineError("of the call itself")

    running = asyncio.create_task(call())
    await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.sleep(0.05)
    assert not running.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert written == [1]
