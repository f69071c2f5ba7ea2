"""Requests that never end, or end very slowly: what was sent so far stays in the service's memory."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

from visionsplit.v1 import generation_pb2, llm_service_pb2

from tests.fuzzing.attacks.base import Attack, counted
from tests.fuzzing.attacks.target import ENCODER, HEALTH, LLM, MIB, REFLECTION, UNARY, Target

_MESSAGE = 50 * MIB
_CONNECTIONS = 30
_FEW, _STANDING_SECONDS = 4, 35.0  # so few calls are nothing unusual; only their age may tell
_DRIBBLE_SECONDS = 0.5  # between two bytes


def _prefix(size: int) -> bytes:
    """What comes before a message that is not compressed."""
    return b"\0" + size.to_bytes(4, "big")


async def _stalled(target: Target, methods: Sequence[str], seconds: float, *, token: bool, llm: bool = False) -> str:
    outcomes: list[str] = []
    sent = 0

    async def one(number: int) -> None:
        nonlocal sent
        method = methods[number % len(methods)]
        async with target.http2(method, llm=llm) as client:
            stream = await client.begin(method, target.metadata(token=token))
            data = _prefix(_MESSAGE) + bytes(_MESSAGE - 16)
            try:
                async with asyncio.timeout(seconds):
                    for place in range(0, len(data), MIB):
                        took = await client.send(stream, data[place : place + MIB])
                        sent += took
                        if took < min(MIB, len(data) - place):
                            break
                    await client.finished(stream)
                outcomes.append("ended by the service")
            except TimeoutError:
                outcomes.append("still open")

    results = await asyncio.gather(*(one(number) for number in range(_CONNECTIONS)), return_exceptions=True)
    outcomes += [type(result).__name__ for result in results if isinstance(result, BaseException)]
    return f"{counted(outcomes)}; {sent / MIB:.0f} MiB sent"


def _stalled_attack(
    name: str, methods: Sequence[str], *, token: bool, llm: bool = False, quick: bool = False
) -> Attack:
    async def run(target: Target, seconds: float) -> str:
        return await _stalled(target, methods, seconds, token=token, llm=llm)

    return Attack(f"unfinished/{name}", run, quick=quick)


def _header() -> bytes:
    header = llm_service_pb2.GenerateHeader(prompt=generation_pb2.Prompt(text="Hi"))
    return llm_service_pb2.LlmServiceGenerateRequest(header=header).SerializeToString()


def _uploads(calls: int, *, begun: bool, names: int = 1) -> Attack:
    """A number of uploads to the LLM service that stop, with a header or without a message."""

    async def run(target: Target, seconds: float) -> str:
        method = f"{LLM}/Generate"
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(target.http2(method)) for _ in range(-(-calls // 64))]
            streams = []
            for number in range(calls):
                client = clients[number % len(clients)]
                who = (*target.metadata(token=True), ("visionsplit-caller", f"invented-{number % names}"))
                stream = await client.begin(method, who)
                if begun:
                    await client.send(stream, _prefix(len(_header())) + _header())
                streams.append((client, stream))
            await asyncio.sleep(max(seconds, _STANDING_SECONDS) if calls == _FEW else seconds)
            left = sum(stream not in client.ended and not client.closed for client, stream in streams)
        return f"{left} of {calls} still open"

    return Attack(f"unfinished/{calls}-uploads-{'begun' if begun else 'silent'}", run)


async def _dribble(target: Target, seconds: float) -> str:
    """64 requests to each service of which a byte comes now and then."""
    outcomes: list[str] = []
    end = time.monotonic() + seconds

    async def one(method: str) -> None:
        async with target.http2(method) as client:
            streams = [await client.begin(method, target.metadata(token=True)) for _ in range(64)]
            for stream in streams:
                await client.send(stream, _prefix(1000))
            while time.monotonic() < end and not client.closed:
                for stream in streams:
                    if stream not in client.ended:
                        await client.send(stream, b"\0")
                await asyncio.sleep(_DRIBBLE_SECONDS)
            outcomes.extend("ended" if client.closed or stream in client.ended else "open" for stream in streams)

    await asyncio.gather(one(f"{ENCODER}/Encode"), one(f"{ENCODER}/Generate"), one(f"{LLM}/Generate"))
    return counted(outcomes)


async def _half_closed(target: Target, seconds: float) -> str:
    """Calls whose callers have ended their half of the connection in the middle of a message."""
    async with AsyncExitStack() as stack:
        for number in range(60):
            method = (*UNARY, f"{LLM}/Generate")[number % 4]
            client = await stack.enter_async_context(target.http2(method))
            stream = await client.begin(method, target.metadata(token=True))
            await client.send(stream, _prefix(MIB) + bytes(1000))
            await client.half_close()
        await asyncio.sleep(seconds)
    return "60 connections half closed"


UNFINISHED_ATTACKS = (
    _stalled_attack("health", [f"{HEALTH}/Check", f"{HEALTH}/Watch"], token=False, quick=True),
    _stalled_attack("health-of-llm", [f"{HEALTH}/Check", f"{HEALTH}/Watch"], token=False, llm=True),
    _stalled_attack("requests", UNARY, token=True),
    _stalled_attack("requests-without-token", [*UNARY, REFLECTION], token=False),
    _stalled_attack("requests-of-llm", [f"{LLM}/Generate", f"{LLM}/GetLlmInfo"], token=True),
    _uploads(_FEW, begun=True),
    _uploads(64, begun=True),
    _uploads(192, begun=False, names=3),
    Attack("unfinished/dribble", _dribble),
    Attack("unfinished/half-closed", _half_closed),
)
