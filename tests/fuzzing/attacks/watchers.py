"""Watchers of the health service, and text of callers in the log."""

import asyncio
import re
import time
from contextlib import AsyncExitStack

from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.fuzzing.attacks.base import Attack
from tests.fuzzing.attacks.target import ENCODER, HEALTH, LLM, Target

_WATCH = f"{HEALTH}/Watch"
_IDS = (
    "a\nINJECTED by id",
    "\x1b[31mINJECTED\x1b[0m",
    "a\rINJECTED",
    "a\0INJECTED",
    "done 1970-01-01 INJECTED",
    "\x85INJECTED",
)


def _watch_message(name: str) -> bytes:
    body = health_pb2.HealthCheckRequest(service=name).SerializeToString()
    return b"\0" + len(body).to_bytes(4, "big") + body


async def _watchers(target: Target, seconds: float) -> str:
    """Watchers that come, do not read, and go, most of invented names, while one stays."""
    opened, end = 0, time.monotonic() + seconds
    async with target.channel(target.llm.address) as channel:
        stays = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        first = (await stays.read()).status
        while time.monotonic() < end:
            async with AsyncExitStack() as stack:
                for number in range(20):
                    client = await stack.enter_async_context(
                        target.http2(_WATCH, llm=number % 2 == 0, window=7 * (number % 3))
                    )
                    for index in range(50):
                        stream = await client.begin(_WATCH)
                        name = "" if index % 10 == 0 else f"invented-{opened}-{'x' * 1000}"
                        await client.send(stream, _watch_message(name), end=True)
                        opened += 1
                await asyncio.sleep(0.2)
        stays.cancel()
    return f"{opened} watchers came and went; the first read {first}"


async def _forged(target: Target, seconds: float) -> str:
    sent = 0
    for number in range(200):
        method = (f"{ENCODER}/Encode", f"{LLM}/Generate")[number % 2]
        key = ("x-request-id", "visionsplit-caller", "traceparent")[number % 3]
        async with target.http2(method) as client:
            stream = await client.begin(method, (*target.metadata(token=True), (key, _IDS[number % len(_IDS)])))
            await client.send(stream, bytes(5), end=True)
            try:
                await asyncio.wait_for(client.finished(stream), 5)
            except TimeoutError:
                continue
            sent += 1
    return f"{sent} calls"


def _log_holds_no_forgery(target: Target) -> list[str]:
    faults = []
    for service in (target.encoder, target.llm):
        log = service.log.read_bytes()
        if any(line.startswith(b"INJECTED") for line in re.split(rb"[\r\n]|\xc2\x85", log)):
            faults.append(f"{service.module} has a line in its log that a caller wrote")
        if found := re.search(rb"[\0-\x08\x0b-\x1f\x7f]", log):
            faults.append(f"{service.module} has the control character {found[0]!r} in its log")
    return faults


OTHER_ATTACKS = (
    Attack("watchers/come-and-go", _watchers, quick=True),
    Attack("logs/forged-ids", _forged, check=_log_holds_no_forgery),
)
