"""Abuses of HTTP/2: connections, streams, frames and windows."""

import asyncio
import random
import socket
import time
from contextlib import AsyncExitStack
from typing import Any

from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    HeadersFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from visionsplit.v1 import encoder_service_pb2

from tests.fuzzing.attacks.base import Attack, counted
from tests.fuzzing.attacks.target import ENCODER, HEALTH, LLM, Target
from tests.fuzzing.images import sound_image

_INFO = f"{ENCODER}/GetEncoderInfo"
_IDLE = 1100  # connections to each service, more than the usual limit of open files
_RESETS = 20_000
_STREAMS = 100  # that a service lets one connection have


def _head(method: str) -> list[tuple[str, str]]:
    return [
        *((":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "localhost")),
        *(("content-type", "application/grpc"), ("te", "trailers")),
    ]


async def _idle(target: Target, seconds: float, *, greeting: bytes = b"") -> str:
    opened: list[socket.socket] = []
    refused = 0
    loop = asyncio.get_running_loop()
    try:
        for number in range(2 * _IDLE):
            one = socket.socket()
            one.setblocking(False)
            host, port = (target.encoder, target.llm)[number % 2].address.rsplit(":", 1)
            try:
                async with asyncio.timeout(1.0):
                    await loop.sock_connect(one, (host, int(port)))
                    await loop.sock_sendall(one, greeting)
                opened.append(one)
            except (OSError, TimeoutError):
                refused += 1
                one.close()
        await asyncio.sleep(seconds)
        closed = 0
        for one in opened:
            try:
                while one.recv(65536):
                    pass
                closed += 1
            except BlockingIOError:
                pass
            except OSError:
                closed += 1
    finally:
        for one in opened:
            one.close()
    return f"{len(opened)} connected, {refused} refused, {closed} ended by the services"


async def _silent(target: Target, seconds: float) -> str:
    return await _idle(target, seconds)


async def _preface(target: Target, seconds: float) -> str:
    return await _idle(target, seconds, greeting=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")


async def _garbage(target: Target, seconds: float) -> str:
    return await _idle(target, seconds, greeting=b"GET / HTTP/1.1\r\nHost: x\r\n")


async def _rapid_reset(target: Target, seconds: float) -> str:
    """Open a stream and reset it at once, twenty thousand times."""
    head = [*_head(_INFO), *target.metadata(token=True)]
    encoder = Encoder()
    blocks = [encoder.encode(head), encoder.encode(head)]  # the second by the numbers that the first gave its fields
    frames = [
        HeadersFrame(2 * number + 1, blocks[number > 0], flags=["END_HEADERS"]).serialize()
        + RstStreamFrame(2 * number + 1, error_code=8).serialize()
        for number in range(_RESETS)
    ]
    async with target.http2(_INFO) as client:
        try:
            await client.raw(b"".join(frames))
        except OSError:
            return "the service ended the connection"
        await asyncio.sleep(min(seconds, 2.0))
        return f"{_RESETS} sent, connection {'ended' if client.closed else 'open'}"


async def _frames(target: Target, frames: bytes, seconds: float, *, first: bytes = b"") -> str:
    """The same frames again and again on a few connections, after `first`."""

    async def one() -> str:
        sent, end = 0, time.monotonic() + seconds
        async with target.http2(_INFO) as client:
            await client.raw(first)
            try:
                while time.monotonic() < end and not client.closed:
                    await client.raw(frames)
                    sent += len(frames)
            except OSError:
                return f"ended after {sent >> 20} MiB"
            return f"{'ended' if client.closed else 'open'} after {sent >> 20} MiB"

    return counted(await asyncio.gather(*(one() for _ in range(4))))


async def _pings(target: Target, seconds: float) -> str:
    return await _frames(target, (b"\0\0\x08\6\0\0\0\0\0" + bytes(8)) * 2000, seconds)


async def _settings(target: Target, seconds: float) -> str:
    frame = SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 1000})
    other = SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 70000})
    return await _frames(target, (frame.serialize() + other.serialize()) * 1000, seconds)


async def _priorities(target: Target, seconds: float) -> str:
    frames = [PriorityFrame(2 * number + 1, depends_on=0, stream_weight=1).serialize() for number in range(2000)]
    return await _frames(target, b"".join(frames), seconds)


async def _windows(target: Target, seconds: float) -> str:
    return await _frames(target, WindowUpdateFrame(0, window_increment=1).serialize() * 2000, seconds)


async def _continuations(target: Target, seconds: float) -> str:
    """Headers that go on without end."""
    encoder = Encoder()
    block = encoder.encode(_head(_INFO))
    more = ContinuationFrame(1, encoder.encode([("x-more", "v" * 4000)])).serialize() * 50
    return await _frames(target, more, seconds, first=HeadersFrame(1, block).serialize())


async def _metadata(target: Target, seconds: float) -> str:
    """Large metadata, and much of it, with and without a token."""
    outcomes = []
    end = time.monotonic() + seconds
    kinds: list[list[tuple[str, str]]] = [
        [("x-large", "v" * 15_000)],
        [("x-large", "v" * 1_000_000)],
        [(f"x-many-{number}", "v") for number in range(2000)],
        [("visionsplit-caller", "c" * 7000), ("x-request-id", "i" * 7000)],
        [("authorization", f"Bearer {'t' * 7000}")] * 2,
        [("traceparent", "0" * 7000)],
    ]
    while time.monotonic() < end:
        for metadata in kinds:
            outcomes.append(await target.call(_INFO, b"", metadata=metadata, token=False, seconds=10))
    return counted(outcomes)


async def _zero_window(target: Target, seconds: float) -> str:
    """Calls whose answers have no room to go to: their window is zero."""
    request = encoder_service_pb2.EncodeRequest(image=encoder_service_pb2.Image(data=_png()))
    return await _unread(target, seconds, window=0, request=request)


async def _slow_readers(target: Target, seconds: float) -> str:
    """Calls whose answers are taken a few bytes at a time."""
    request = encoder_service_pb2.EncodeRequest(image=encoder_service_pb2.Image(data=_png()))
    return await _unread(target, seconds, window=100, request=request)


async def _unread(target: Target, seconds: float, *, window: int, request: Any) -> str:
    body = request.SerializeToString()
    message = b"\0" + len(body).to_bytes(4, "big") + body
    method = f"{ENCODER}/Encode"
    end = time.monotonic() + seconds
    async with AsyncExitStack() as stack:
        streams = []
        for _ in range(3):
            client = await stack.enter_async_context(target.http2(method, window=window))
            for _ in range(30):
                stream = await client.begin(method, target.metadata(token=True))
                await client.send(stream, message, end=True)
                streams.append((client, stream))
        while time.monotonic() < end:
            for client, stream in streams:
                if window and not client.closed and stream not in client.ended:
                    client.open_window(stream, 50)
                    await client.flush()
            await asyncio.sleep(0.5)
        left = sum(not client.closed and stream not in client.ended for client, stream in streams)
    return f"{left} of {len(streams)} calls open"


def _png() -> bytes:
    return sound_image(random.Random(0), "PNG", (700, 500))


async def _churn(target: Target, seconds: float) -> str:
    """Connections that come, ask for the health, and go without a word."""
    outcomes: list[str] = []
    end = time.monotonic() + seconds

    async def one() -> None:
        while time.monotonic() < end:
            try:
                async with target.http2(_INFO) as client:
                    await client.begin(f"{HEALTH}/Check")
                outcomes.append("gone")
            except OSError as error:
                outcomes.append(type(error).__name__)

    await asyncio.gather(*(one() for _ in range(16)))
    return counted(outcomes)


async def _many_streams(target: Target, seconds: float) -> str:
    """As many calls as a connection takes, on fifty connections, none with a message."""
    opened = 0
    async with AsyncExitStack() as stack:
        clients = []
        for number in range(50):
            method = (f"{ENCODER}/Encode", f"{LLM}/GetLlmInfo")[number % 2]
            client = await stack.enter_async_context(target.http2(method))
            for _ in range(_STREAMS):
                await client.begin(method, target.metadata(token=False), flush=False)
                opened += 1
            await client.flush()
            clients.append(client)
        await asyncio.sleep(seconds)
        left = sum(not client.closed for client in clients)
    return f"{opened} streams, {left} of 50 connections left"


CONNECTION_ATTACKS = (
    Attack("connections/idle", _silent),
    Attack("connections/preface-only", _preface),
    Attack("connections/no-http2", _garbage),
    Attack("connections/rapid-reset", _rapid_reset),
    Attack("connections/pings", _pings),
    Attack("connections/settings", _settings),
    Attack("connections/priorities", _priorities, left_to_a_proxy=True),
    Attack("connections/window-updates", _windows, left_to_a_proxy=True),
    Attack("connections/continuations", _continuations),
    Attack("connections/metadata", _metadata),
    Attack("connections/zero-window", _zero_window),
    Attack("connections/slow-readers", _slow_readers),
    Attack("connections/churn", _churn),
    Attack("connections/streams", _many_streams),
)
