"""Kept tokens: never another answer than encoding again gives, one encoding for equal calls, a disk that may fail."""

import asyncio
import hashlib
import os
import shutil
import struct
import threading
from contextlib import contextmanager
from dataclasses import replace

import grpc
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from visionsplit.errors import VisionSplitError
from visionsplit.grid import TileGrid
from visionsplit.images import decode_image
from visionsplit.options.data_types import DataType
from visionsplit.v1 import encoder_service_pb2, generation_pb2, tensor_pb2
from visionsplit.wire.tensors import TokenTensor
from visionsplit_client import Client, Compression

from encoder_service.caching.disk import DiskTier
from encoder_service.caching.entry import CachedTokens
from encoder_service.caching.key import TokensKey
from encoder_service.caching.tokens import TokenCache
from encoder_service.compression import METHODS
from encoder_service.config import BatchLimits, CacheLimits, EncoderConfig
from encoder_service.server import EncoderServer
from tests.checkpoints import tiny_checkpoint
from tests.unit.encoder.helpers import FakeLlm, globalcom2, png, running_encoder, running_llm, status_of_call

EncodeRequest = encoder_service_pb2.EncodeRequest
GenerateRequest = encoder_service_pb2.EncoderServiceGenerateRequest
Image = encoder_service_pb2.Image
IMAGES = (png(200, 200, 1), png(200, 200, 2), png(300, 90, 3), png(40, 160, 4))
ON = CacheLimits()


@pytest.fixture
def model(random_checkpoints):
    return random_checkpoints["llama"]


@contextmanager
def servers(*configs):
    """Encoders on a separate event loop, for tests that call them from outside; returns their addresses."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def wait_for(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)

    started = [EncoderServer(config) for config in configs]
    try:
        yield started, [f"127.0.0.1:{wait_for(server.start())}" for server in started]
    finally:
        for server in started:
            wait_for(server.stop(5))
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@pytest.fixture(scope="module")
def pair(random_checkpoints, tmp_path_factory):
    """Clients of an encoder that keeps tokens, few in memory and more on disk, and of one that keeps none."""
    limits = CacheLimits(60_000, tmp_path_factory.mktemp("cache"), 200_000)
    model = str(random_checkpoints["llama"])
    configs = [
        EncoderConfig(model, listen="127.0.0.1:0", cache=cache) for cache in (limits, CacheLimits(memory_bytes=0))
    ]
    with servers(*configs) as (_, addresses), Client(addresses[0]) as kept, Client(addresses[1]) as fresh:
        yield kept, fresh


RATIOS = [None, 0.001, 0.05, 0.1, 0.25, 0.3, 0.5, 0.77, 1.0]
COMPRESSIONS = st.one_of(
    st.builds(
        Compression,
        method=st.sampled_from(["globalcom2", "divprune", *METHODS]),
        retention_ratio=st.sampled_from(RATIOS),
        layout=st.sampled_from(["spatial", "reference"]),
        budget=st.sampled_from([None, None, None, "top_k_count", "softmax_max", "attention_share", "outliers"]),
        quotas_only=st.sampled_from([False, False, True]),
    ),
    st.just(Compression("none", 1.0)),
)


def outcome(client, image, compression, data_type):
    """All that a caller gets but the times, or how the call was refused; and where the tokens came from."""
    try:
        encoded = client.encode(image, compression=compression, data_type=data_type)
    except VisionSplitError as error:
        return (type(error), str(error)), "error"
    tokens = encoded.tokens
    facts = (tokens.grid, tokens.budgets, tokens.quotas, tokens.features, tokens.positions.tobytes())
    return (*facts, encoded.summary.wire_bytes, encoded.summary.tokens_after), encoded.summary.cache


def test_kept_tokens_are_to_the_bit_those_of_encoding_anew(pair):
    """Whatever was asked before: another ratio of the same composition, another composition, layout or data type.

    A single request usually finds nothing. So each is asked again at another ratio, which finds the memory, and
    with it one of some time ago, which by then has left the memory for the disk.
    """
    kept, fresh = pair
    found = {"memory": 0, "disk": 0, "miss": 0, "error": 0}
    asked = []

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.integers(0, len(IMAGES) - 1),
        COMPRESSIONS,
        st.sampled_from(["float32", "float16", "bfloat16", "int8"]),
        st.sampled_from(RATIOS),
        st.integers(1, 12),
    )
    def check(number, compression, data_type, ratio, ago):
        image = IMAGES[number]
        asked.append((image, compression, data_type))
        again = replace(compression, retention_ratio=ratio) if compression.method != "none" else compression
        for request in (asked[-1], (image, again, data_type), asked[-min(ago, len(asked))]):
            answer, cache = outcome(kept, *request)
            expected, off = outcome(fresh, *request)
            assert answer == expected
            assert off in ("off", "error")
            found[cache] += 1

    check()
    assert all(found.values()), found


def test_a_kept_image_that_would_keep_no_token_is_named(pair):
    kept, fresh = pair
    asked = [(IMAGES[0], Compression("globalcom2", ratio), "float16") for ratio in (0.5, 0.001)]
    (_, first), (refusal, _) = [outcome(kept, *request) for request in asked]
    assert first in ("miss", "memory", "disk")
    assert "image 0: " in refusal[1]
    assert refusal == outcome(fresh, *asked[1])[0]


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"none", "cdpruner"}))
def test_a_larger_ratio_serves_smaller_ones_where_it_can(pair, method):
    """And as encoding again would; where what is merged or sampled depends on the budget, it is encoded."""
    kept, fresh = pair
    image = png(180, 210, 77)
    first, *smaller = [outcome(kept, image, Compression(method, ratio), "float16") for ratio in (0.6, 0.45, 0.6, 0.2)]
    assert first[1] == "miss"
    nested = method not in ("prumerge", "prumerge+", "visionzip")
    hits = {"memory"} if nested else {"memory", "miss"}
    assert {cache for _, cache in smaller} == hits
    for ratio, (answer, _) in zip((0.45, 0.6, 0.2), smaller, strict=True):
        assert answer == outcome(fresh, image, Compression(method, ratio), "float16")[0]


class Gate(threading.Event):
    """An event with the lengths of what was to be decoded while it was not set."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []


@pytest.fixture
def held(monkeypatch):
    """Holds every decoding until it is set; counts them."""
    gate, decode = Gate(), decode_image

    def waiting(data, limits):
        gate.calls.append(len(data))
        assert gate.wait(30)
        return decode(data, limits)

    monkeypatch.setattr("encoder_service.pipeline.preparation.decode_image", waiting)
    yield gate
    gate.set()


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - counts do not notify
            await asyncio.sleep(0.01)


async def encode(stub, data, compression=None, data_type=tensor_pb2.DATA_TYPE_UNSPECIFIED):
    """The messages of the answer but the summary, and the summary."""
    request = EncodeRequest(image=Image(data=data), compression=compression, data_type=data_type)
    *tokens, last = [response async for response in stub.Encode(request)]
    return [message.SerializeToString(deterministic=True) for message in tokens], last.summary


async def test_a_hit_neither_decodes_nor_takes_room(model, held):
    """While another image holds all the room there is."""
    held.set()
    limits = BatchLimits(max_batch_tiles=8, max_wait_seconds=0, max_queued_tiles=5)
    async with running_encoder(model, cache=ON, batch=limits) as (server, stub):
        first, summary = await encode(stub, IMAGES[0], globalcom2(0.5))
        assert summary.cache == encoder_service_pb2.CACHE_MISS
        held.clear()
        other = asyncio.create_task(encode(stub, IMAGES[1]))
        await until(lambda: len(held.calls) == 2)
        code, _, _ = await status_of_call(stub.Encode(EncodeRequest(image=Image(data=IMAGES[2]))))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        again, summary = await encode(stub, IMAGES[0], globalcom2(0.5))
        assert again == first
        assert summary.cache == encoder_service_pb2.CACHE_MEMORY
        assert summary.timings.preprocess_seconds == summary.timings.encode_seconds == 0
        held.set()
        await other
        counts = server.cache_counts
        assert (counts.memory_hits, counts.misses, counts.memory_entries) == (1, 2, 2)


async def test_equal_images_of_one_request_are_encoded_once(model):
    fake = FakeLlm()
    async with running_llm(fake) as address, running_encoder(model, cache=ON, llm=address) as (server, stub):
        request = GenerateRequest(images=[Image(data=IMAGES[0])] * 3, prompt=generation_pb2.Prompt(text="x"))
        responses = [response async for response in stub.Generate(request)]
        summaries = [response.image for response in responses if response.WhichOneof("event") == "image"]
        assert sorted(summary.image_index for summary in summaries) == [0, 1, 2]
        assert {summary.cache for summary in summaries} == {encoder_service_pb2.CACHE_MISS}
        assert (server.cache_counts.misses, server.cache_counts.joined) == (1, 2)
        tokens = dict.fromkeys(range(3), b"")
        for chunk in fake.parts("tokens"):
            tokens[chunk.image_index] += chunk.features.data
        assert tokens[0] == tokens[1] == tokens[2] != b""


async def test_equal_calls_share_one_encoding_and_outlive_the_one_that_began_it(model, held):
    async with running_encoder(model, cache=ON) as (server, stub):
        request = EncodeRequest(image=Image(data=IMAGES[0]), compression=globalcom2(0.5))
        leader = stub.Encode(request)
        reading = asyncio.create_task(leader.read())
        await until(lambda: held.calls)
        followers = [asyncio.create_task(encode(stub, IMAGES[0], globalcom2(0.5))) for _ in range(3)]
        await until(lambda: server.cache_counts.joined == 3)
        leader.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        held.set()
        answers = await asyncio.gather(*followers)
        assert len(held.calls) == 1
        assert server.cache_counts.misses == 1
        assert answers[0][0] == answers[1][0] == answers[2][0]
        assert (await encode(stub, IMAGES[0], globalcom2(0.5)))[1].cache == encoder_service_pb2.CACHE_MEMORY


async def test_what_nobody_waits_for_is_given_up_and_begun_anew(model, held):
    limits = BatchLimits(max_batch_tiles=4, max_wait_seconds=0, max_queued_tiles=5)
    async with running_encoder(model, cache=ON, batch=limits) as (server, stub):
        call = stub.Encode(EncodeRequest(image=Image(data=IMAGES[0])))
        reading = asyncio.create_task(call.read())
        await until(lambda: held.calls)
        call.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        held.set()  # until then a thread has the image
        await until(lambda: not server.reserved_tiles)
        await encode(stub, IMAGES[0])
        assert server.cache_counts.misses == 2


async def test_a_broken_image_is_refused_by_its_own_number_for_everyone(model, held):
    broken = IMAGES[0][:-600]
    async with running_encoder(model, cache=ON, llm="127.0.0.1:1") as (server, stub):
        one = asyncio.create_task(status_of_call(stub.Encode(EncodeRequest(image=Image(data=broken)))))
        await until(lambda: held.calls)
        images = [Image(data=IMAGES[1]), Image(data=broken)]
        other = asyncio.create_task(status_of_call(stub.Generate(GenerateRequest(images=images))))
        await until(lambda: server.cache_counts.joined)
        held.set()
        assert [(await call)[1][:8] for call in (one, other)] == ["image 0:", "image 1:"]


async def test_the_disk_outlives_the_process_but_not_another_encoder(model, tmp_path):
    limits = CacheLimits(folder=tmp_path / "kept")
    async with running_encoder(model, cache=limits) as (_, stub):
        first, _ = await encode(stub, IMAGES[0], globalcom2(0.5))
    async with running_encoder(model, cache=limits) as (server, stub):
        again, summary = await encode(stub, IMAGES[0], globalcom2(0.5))
        assert summary.cache == encoder_service_pb2.CACHE_DISK
        assert again[0] == first[0]
        assert (await encode(stub, IMAGES[0], globalcom2(0.2)))[1].cache == encoder_service_pb2.CACHE_MEMORY
        assert server.cache_counts.disk_hits == 1
    other = tiny_checkpoint(tmp_path / "other", seed=5)
    async with running_encoder(other, cache=limits) as (_, stub):
        assert (await encode(stub, IMAGES[0], globalcom2(0.5)))[1].cache == encoder_service_pb2.CACHE_MISS


def spoil_cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def spoil_flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def spoil_swapped(path):
    for other in path.parent.glob("*.tokens"):
        if other != path:
            shutil.copy(other, path)


def spoil_removed(path):
    path.unlink()


def spoil_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("spoil", [spoil_cut, spoil_flipped, spoil_swapped, spoil_removed, spoil_folder])
async def test_a_damaged_file_is_a_miss(model, tmp_path, spoil):
    limits = CacheLimits(memory_bytes=0, folder=tmp_path)
    (tmp_path / "notes.txt").write_text("not ours")
    abandoned, written = (tmp_path / ("0" * 64 + f".tokens{name}.part") for name in ("old", "new"))
    for unfinished in (abandoned, written):
        unfinished.write_text("by another process")
    os.utime(abandoned, (0, 0))  # it was killed; the other one is writing
    async with running_encoder(model, cache=limits) as (server, stub):
        first, _ = await encode(stub, IMAGES[0], globalcom2(0.5))
        await until(lambda: server.cache_counts.disk_entries == 1)
        (path,) = tmp_path.glob("*.tokens")
        await encode(stub, IMAGES[1], globalcom2(0.5))
        await until(lambda: server.cache_counts.disk_entries == 2)
        spoil(path)
        again, summary = await encode(stub, IMAGES[0], globalcom2(0.5))
        assert summary.cache == encoder_service_pb2.CACHE_MISS
        assert again == first
    assert (tmp_path / "notes.txt").read_text() == "not ours"
    assert list(tmp_path.glob("*.part")) == [written]


async def test_a_disk_that_takes_nothing_stops_nobody(model, tmp_path, monkeypatch, caplog):
    """Full, or with a file in the folder's place."""
    (tmp_path / "file").write_text("")
    async with running_encoder(model, cache=CacheLimits(0, tmp_path / "file")) as (_, stub):
        await encode(stub, IMAGES[0])
    assert "no cache on disk" in caplog.text

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("encoder_service.caching.disk.DiskTier._write", full)
    async with running_encoder(model, cache=CacheLimits(folder=tmp_path / "full")) as (server, stub):
        await encode(stub, IMAGES[0])
        await until(lambda: server.cache_counts.disk_failures == 1)
        assert (await encode(stub, IMAGES[0]))[1].cache == encoder_service_pb2.CACHE_MEMORY
    assert "No space left on device" in caplog.text


async def test_both_tiers_keep_to_their_sizes(model, tmp_path):
    limits = CacheLimits(30_000, tmp_path, 40_000)
    async with running_encoder(model, cache=limits) as (server, stub):
        for seed in range(12):
            await encode(stub, png(120, 120, seed))
        await until(lambda: server.cache_counts.disk_evictions)
        counts = server.cache_counts
        assert 0 < counts.memory_bytes <= 30_000
        assert counts.memory_evictions
    assert 0 < sum(path.stat().st_size for path in tmp_path.glob("*.tokens")) <= 40_000


def entry_of(num_bytes):
    features = TokenTensor(DataType.FLOAT32, 1, num_bytes // 4, bytes(num_bytes))
    grid = TileGrid.padded(112, 112, rows=1, columns=1, side=4)
    return CachedTokens(grid, (1, 0), None, features, np.zeros((1, 3), np.int32), None, None)


def test_an_entry_that_replaces_its_own_file_keeps_to_the_limit(tmp_path):
    """Its present file is the one that was used least, and would make way."""
    disk = DiskTier(tmp_path, 30_000)
    keys = [str(number) * 64 for number in range(3)]
    for key in keys:
        disk.put(key, entry_of(6_000))
    disk.put(keys[0], entry_of(20_000))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == disk.num_bytes <= 30_000
    assert disk.get(keys[0]).features.num_bytes == 20_000


def test_a_file_that_is_nested_too_deeply_is_a_miss(tmp_path):
    nested = b"[" * 100_000
    body = struct.pack("<Q", len(nested)) + nested
    (tmp_path / ("0" * 64 + ".tokens")).write_bytes(hashlib.sha256(body).digest() + body)
    disk = DiskTier(tmp_path, 1_000_000)
    assert disk.get("0" * 64) is None
    assert not len(disk)


@pytest.mark.parametrize("memory_bytes", [0, 2**20])
def test_tokens_that_are_put_change_the_stamp_of_their_key(tmp_path, memory_bytes):
    """On which a search relies that ran meanwhile."""
    cache = TokenCache(CacheLimits(memory_bytes, tmp_path), encoder="e", device=torch.device("cpu"))
    key, other = TokensKey("a" * 64, "r"), TokensKey("b" * 64, "r")
    before = cache.stamp(key)
    cache.put(other, entry_of(100))
    assert cache.stamp(key) is before
    cache.put(key, entry_of(100))
    assert cache.stamp(key) is not before
    cache.close()
