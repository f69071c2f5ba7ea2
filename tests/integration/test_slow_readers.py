"""Callers that do not read their answers: what an encoder, a process, holds for them and for how long.

Memory is the process's private one (USS). It is told to hand back at once what it frees, which glibc else puts off.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import psutil
import pytest
from visionsplit.network.transport import channel_options
from visionsplit.options.data_types import DataType
from visionsplit.serving import sending
from visionsplit.v1 import (
    encoder_service_pb2,
    encoder_service_pb2_grpc,
    generation_pb2,
    llm_service_pb2,
    llm_service_pb2_grpc,
)
from visionsplit_cli.top.samples import Samples, read_samples

from benchmarks.load.system import Service, free_port
from tests.checkpoints import tiny_checkpoint
from tests.unit.encoder.helpers import png, running_encoder

MIB = 2**20
READERS = 4
TILES = 5
# 5 tiles of 24 x 24 tokens of 512 float32 numbers.
WIDE = {"hidden_size": 512, "num_hidden_layers": 2, "num_attention_heads": 1, "image_size": 96, "patch_size": 4}
IMAGE_BYTES = TILES * 24 * 24 * 512 * 4
LIMIT_OF_STREAM = 256 * MIB
DELTA = generation_pb2.TextDelta(text="x" * 16384, token_ids=[7])


@pytest.fixture(autouse=True)
def _frees_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(256 * 2**10))
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", str(256 * 2**10))


class Encoder:
    """A running process and how it is seen from outside."""

    def __init__(self, service: Service, metrics: str, stub: encoder_service_pb2_grpc.EncoderServiceStub) -> None:
        assert service.process is not None
        self.stub = stub
        self._metrics = metrics
        self._process = psutil.Process(service.process.pid)

    def memory(self) -> int:
        return int(self._process.memory_full_info().uss)

    async def when(self, seen: Callable[[Samples], bool]) -> None:
        async with asyncio.timeout(60):
            while True:
                if seen(await asyncio.to_thread(read_samples, self._metrics, "encoder")):
                    return
                await asyncio.sleep(0.05)

    async def encode(self, seed: int) -> int:
        """A caller that reads; gives the bytes of features."""
        return sum([len(part.tokens.features.data) async for part in self.start(seed)])

    def start(self, seed: int):
        return self.stub.Encode(encoder_service_pb2.EncodeRequest(image={"data": png(192, 192, seed)}))


@asynccontextmanager
async def encoder(model: Path, *arguments: str) -> AsyncIterator[Encoder]:
    metrics = f"127.0.0.1:{free_port()}"
    options = ["--model", str(model), "--cache-bytes", "0", "--metrics", metrics, *arguments]
    service = Service("encoder_service", options, f"127.0.0.1:{free_port()}")
    service.start()
    try:
        await asyncio.to_thread(service.wait_until_serving)
        async with grpc.aio.insecure_channel(service.address, options=channel_options(service.address)) as channel:
            yield Encoder(service, metrics, encoder_service_pb2_grpc.EncoderServiceStub(channel))
    finally:
        await asyncio.to_thread(service.stop)


async def test_unread_encodings_cost_their_own_tokens_until_they_are_cancelled(tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path, vision=WIDE, pinpoints=[[192, 192]])
    async with encoder(model, "--data-type", "float32", "--max-batch-tiles", "5") as server:
        whole = await server.encode(0)
        assert whole == IMAGE_BYTES
        before = server.memory()
        held, left = [], []
        for turn in (1, 2):
            calls = [server.start(seed) for seed in range(READERS)]
            for call in calls:
                await call.read()
            # All of them are encoded, though no caller reads, and none of them holds room that others could use.
            tiles = TILES * (1 + turn * READERS + (turn - 1))
            await server.when(lambda page, tiles=tiles: page.total("batch_tiles_sum") >= tiles)
            await server.when(lambda page: page.total("reserved_tiles") == 0)
            held.append(server.memory() - before)
            assert await server.encode(99) == whole  # another caller notices nothing
            for call in calls:
                call.cancel()
            await server.when(lambda page: page.total("requests_in_flight") == 0)
            left.append(server.memory() - before)
        print([f"{one / MIB:.0f} MiB held, {rest / MIB:.0f} left" for one, rest in zip(held, left, strict=True)])
    assert max(held) < 1.5 * READERS * IMAGE_BYTES
    # Less than the images of one turn; what Python frees only when it next looks for cycles is among it.
    assert max(left) < 0.75 * READERS * IMAGE_BYTES


async def rest_of(call: grpc.aio.UnaryStreamCall) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_an_encoding_that_is_never_read_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place and its tokens are not held for ever, and its caller learns why."""
    monkeypatch.setattr(sending, "UNREAD_SECONDS", 1.0)
    model = tiny_checkpoint(tmp_path, vision=WIDE, pinpoints=[[384, 384]])
    async with running_encoder(model, max_calls=1, data_type=DataType.FLOAT32) as (server, stub):
        request = encoder_service_pb2.EncodeRequest(image={"data": png(384, 384)})
        call = stub.Encode(request)
        await call.read()
        async with asyncio.timeout(30):
            while server._admission.active:  # noqa: ASYNC110 - what is waited for happens in gRPC
                await asyncio.sleep(0.05)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await rest_of(call)
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert failure.value.details() == "no part of the answer was read for 1 seconds"
        assert [part async for part in stub.Encode(request)]


class Talkative(llm_service_pb2_grpc.LlmServiceServicer):
    """Answers for as long as somebody takes it."""

    def __init__(self) -> None:
        self.sent = 0
        self.ended = asyncio.Event()

    async def Generate(self, request_iterator, context):  # noqa: N802
        try:
            async for _ in request_iterator:
                pass
            while self.sent < LIMIT_OF_STREAM:
                await context.write(llm_service_pb2.LlmServiceGenerateResponse(delta=DELTA))
                self.sent += len(DELTA.text)
        finally:
            self.ended.set()


async def test_an_unread_answer_is_not_read_from_the_llm_service_either(random_checkpoints: dict[str, Path]) -> None:
    llm, server = Talkative(), grpc.aio.server()
    llm_service_pb2_grpc.add_LlmServiceServicer_to_server(llm, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with encoder(random_checkpoints["llama"], "--llm", f"127.0.0.1:{port}") as process:
            await process.encode(0)
            before = process.memory()
            request = encoder_service_pb2.EncoderServiceGenerateRequest(prompt={"text": "x"})
            call = process.stub.Generate(request)
            await call.read()  # type: ignore[attr-defined]
            sent = -1
            while sent != llm.sent:
                sent = llm.sent
                await asyncio.sleep(0.5)
            grown = process.memory() - before
            print(f"{sent / MIB:.1f} MiB on their way, {grown / MIB:.1f} MiB more in the encoder")
            assert sent < 16 * MIB
            assert grown < 16 * MIB
            assert await process.encode(1)
            call.cancel()
            async with asyncio.timeout(20):
                await llm.ended.wait()
            await process.when(lambda page: page.total("requests_in_flight") == 0)
    finally:
        await server.stop(None)
