"""`python -m tests.health_follow --events 200`: encoders follow an LLM service through restarts, drains and crashes.

The encoders' side is the real one (`LlmEndpoints`), two of them; the LLM service's side is the real health service and
a stand-in for its calls, behind a relay that can stop passing bytes on, as a stopped process or a firewall does. The
report says for how long at most an encoder believed what was not so, by the kind of event. Exit code 1 beyond two
seconds.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from visionsplit.security.client import ClientSecurity
from visionsplit.serving.health import HealthService

from encoder_service.llm.channel import LlmChannel
from encoder_service.llm.client import LlmClient
from encoder_service.llm.endpoint_selection import LlmEndpoint, LlmEndpoints
from tests.relays import Relay
from tests.unit.encoder.helpers import LLM_SERVICE_NAME, FakeLlm, running_llm

MOST_SECONDS = 2.0
_LOOK_SECONDS = 0.01
_LONG_SHARE, _LONG_SECONDS = 0.05, 8.0  # now and then connections are tried for so long that gRPC pauses longest
_SETTLED = 2.2  # seconds after which every encoder must be right

_QUICK = ("drain", "undrain", "restart", "other checkpoint", "watcher comes", "watcher leaves")
_KINDS = (*_QUICK, "stop", "start", "another service", "black hole", "stand still", "go on")


@dataclass
class Truth:
    """What is so at the moment."""

    up: bool = False
    serving: bool = True
    still: bool = False
    checkpoint: str = "first"

    @property
    def serves(self) -> bool:
        return self.up and self.serving and not self.still


@dataclass
class Report:
    events: Counter[str] = field(default_factory=Counter)
    longest: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # seconds wrong, by kind of event
    faults: list[str] = field(default_factory=list)


class Campaign:
    """One LLM service that changes, a second one that does not, and two encoders that follow both."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._truth = Truth()
        self._relay = Relay()
        self._service: AsyncExitStack | None = None  # what runs at the address now
        self._fake = FakeLlm()
        self._watches: list[grpc.aio.UnaryStreamCall[object, object]] = []
        self._steady = ""
        self._last = "start"
        self.report = Report()

    async def run(self, events: int, kinds: tuple[str, ...], *, steady_seconds: float) -> Report:
        async with AsyncExitStack() as stack:
            other = FakeLlm()
            other.checkpoint = "first"
            self._steady = await stack.enter_async_context(running_llm(other))
            await self._relay.listen()
            stack.push_async_callback(self._relay.end)
            await self._start()
            stack.push_async_callback(self._stop)
            encoders = [self._encoder() for _ in range(2)]
            for encoder in encoders:
                stack.push_async_callback(encoder.close)
            watching = [asyncio.create_task(self._compare(encoder)) for encoder in encoders]
            await asyncio.sleep(_SETTLED)
            for _ in range(events):
                await self._event(self._rng.choice([kind for kind in kinds if self._possible(kind)]))
                await asyncio.sleep(self._rng.choice((0.0, 0.05, self._rng.uniform(0, steady_seconds))))
                if steady_seconds > 1 and self._rng.random() < _LONG_SHARE:
                    await asyncio.sleep(_LONG_SECONDS)
            await asyncio.sleep(_SETTLED)
            for watch in watching:
                watch.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
            for call in self._watches:
                call.cancel()
            self._relay.moving.set()
        return self.report

    def _encoder(self) -> LlmEndpoints:
        addresses = (f"127.0.0.1:{self._relay.port}", self._steady)
        return LlmEndpoints(
            [LlmEndpoint(address, LlmClient(LlmChannel(address, ClientSecurity()))) for address in addresses]
        )

    async def _compare(self, encoder: LlmEndpoints) -> None:
        """For how long what an encoder believes has differed from what is so, without a break on either side."""
        gateway = encoder._endpoints[0]
        wrong_since: float | None = None
        before: tuple[bool, str] | None = None
        while True:
            truth = (self._truth.serves, self._truth.checkpoint)
            known = gateway.checkpoint.name if gateway.checkpoint is not None else ""
            right = gateway.serving == truth[0] and (not truth[0] or known == truth[1])
            now = time.monotonic()
            if right or truth != before:  # a new truth gives an encoder new time
                wrong_since, before = (None if right else now), truth
            elif wrong_since is not None:
                wrong = now - wrong_since
                self.report.longest[self._last] = max(self.report.longest[self._last], wrong)
                if wrong > MOST_SECONDS and wrong - MOST_SECONDS < 2 * _LOOK_SECONDS:
                    self.report.faults.append(
                        f"after {self._last}: believed {gateway.serving} of {known!r}, not {truth}"
                    )
            await asyncio.sleep(_LOOK_SECONDS)

    def _possible(self, kind: str) -> bool:
        truth = self._truth
        running = truth.up and not truth.still
        return {
            "drain": running and truth.serving,
            "undrain": running and not truth.serving,
            "start": not truth.up,
            "stand still": running,
            "go on": truth.still,
            "watcher leaves": bool(self._watches),
            "watcher comes": running and len(self._watches) < 20,
        }.get(kind, running)

    async def _event(self, kind: str) -> None:
        self._last = kind
        self.report.events[kind] += 1
        match kind:
            case "drain" | "undrain":
                self._fake.health.set(serving=kind == "undrain")
                self._truth.serving = kind == "undrain"
            case "restart":
                await self._stop()
                await self._start()
            case "other checkpoint":
                await self._stop()
                self._truth.checkpoint = "second" if self._truth.checkpoint == "first" else "first"
                await self._start()
            case "stop":
                await self._stop()
                await self._relay.close()
            case "start":
                await self._stop()
                await self._start()
            case "another service":
                await self._stop()
                await self._start_other()
            case "black hole":
                await self._stop()
                self._relay.target = None
            case "stand still" | "go on":
                self._truth.still = kind == "stand still"
                (self._relay.moving.clear if self._truth.still else self._relay.moving.set)()
            case "watcher comes":
                await self._watch()
            case "watcher leaves":
                self._watches.pop(self._rng.randrange(len(self._watches))).cancel()

    async def _watch(self) -> None:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{self._relay.target}")
        assert self._service is not None
        self._service.push_async_callback(channel.close)
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=LLM_SERVICE_NAME))
        await call.read()
        self._watches.append(call)

    async def _start(self) -> None:
        self._fake = FakeLlm()
        self._fake.checkpoint = self._truth.checkpoint
        self._service = AsyncExitStack()
        address = await self._service.enter_async_context(running_llm(self._fake))
        self._relay.target = int(address.rpartition(":")[2])
        await self._relay.listen()
        self._truth.up, self._truth.serving = True, True

    async def _start_other(self) -> None:
        """A server of gRPC that has a health check and no LLM service."""
        self._service = AsyncExitStack()
        address = await self._service.enter_async_context(_other_service())
        self._relay.target = int(address.rpartition(":")[2])

    async def _stop(self) -> None:
        self._truth.up = False
        self._relay.drop()
        if self._service is not None:
            service, self._service = self._service, None
            self._watches.clear()
            await service.aclose()


@asynccontextmanager
async def _other_service() -> AsyncIterator[str]:
    health = HealthService("another.Service")
    health.set(serving=True)
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield address
    finally:
        await server.stop(None)


def follow(events: int, *, seed: int, steady_seconds: float) -> Report:
    """Let a number of events happen, each followed by up to `steady_seconds` in which nothing does."""
    return asyncio.run(Campaign(seed).run(events, _KINDS, steady_seconds=steady_seconds))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.health_follow", description=__doc__)
    parser.add_argument("--events", type=int, default=200, help="How many events happen. Default: %(default)s.")
    parser.add_argument("--seed", type=int, default=0, help="Which events happen when. Default: %(default)s.")
    options = parser.parse_args()
    report = follow(options.events, seed=options.seed, steady_seconds=3.0)
    for kind in sorted(report.events):
        print(f"{report.events[kind]:>5} times {kind:<18} wrong for at most {report.longest[kind]:.2f} s")
    for fault in report.faults:
        print(f"health_follow: {fault}", file=sys.stderr)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
