"""Sends requests at given times, answered or not, and accounts for each of them."""

import asyncio
import io
import itertools
import random
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image
from visionsplit_client import AsyncClient, Compression, Retries, Sampling, TextDelta, VisionSplitError

SIZES = [(300, 200), (640, 480), (200, 600), (800, 800), (336, 336)]
PROMPT = "What is in the picture?"
Ask = Coroutine[Any, Any, None]  # one request from its start to its only outcome


@dataclass
class Outcomes:
    """The outcomes of the requests."""

    sent: int = 0
    ends: Counter[str] = field(default_factory=Counter)  # "answer", or the error's class
    first_seconds: list[float] = field(default_factory=list)  # of answered requests
    total_seconds: list[float] = field(default_factory=list)
    answered_at: list[float] = field(default_factory=list)  # seconds of time.monotonic
    failed_at: list[float] = field(default_factory=list)
    seconds: float = 0.0  # from the first request to the last end

    @property
    def answered(self) -> int:
        return self.ends["answer"]

    @property
    def lost(self) -> int:
        """The number of requests without exactly one outcome."""
        return self.sent - sum(self.ends.values())

    @property
    def goodput(self) -> float:
        """Answers per second."""
        return self.answered / self.seconds if self.seconds else 0.0


class Traffic:
    """Sends requests through one client, which may use several encoders."""

    def __init__(self, addresses: Sequence[str], *, seed: int = 0, timeout: float, patient: bool = False) -> None:
        """`patient` callers repeat requests that a full or lost service refused, until the timeout."""
        retries = Retries(attempts=100, overloaded=True) if patient else Retries(attempts=1)
        self._client = AsyncClient(list(addresses), retries=retries, timeout=timeout)
        self._rng = random.Random(seed)
        generator = np.random.default_rng(seed)
        self._images = [
            _jpeg(Image.fromarray(generator.integers(0, 255, (12, 12, 3), dtype=np.uint8)).resize(size))
            for size in SIZES
        ]
        self._numbers = itertools.count()

    async def __aenter__(self) -> "Traffic":
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(self, outcomes: Outcomes) -> None:
        """Send one request and record its only outcome."""
        number = next(self._numbers)
        # Decoders ignore bytes after the image, but no two files are equal, so that no answer comes from a cache.
        image = self._images[number % len(self._images)] + number.to_bytes(4, "big")
        outcomes.sent += 1
        started, first = time.monotonic(), 0.0
        try:
            async with self._client.stream(
                image, PROMPT, compression=Compression("globalcom2", 0.25), sampling=Sampling(max_new_tokens=16)
            ) as stream:
                async for event in stream:
                    if isinstance(event, TextDelta) and not first:
                        first = time.monotonic() - started
        except VisionSplitError as error:
            outcomes.ends[type(error).__name__] += 1
            outcomes.failed_at.append(time.monotonic())
            return
        outcomes.ends["answer"] += 1
        outcomes.first_seconds.append(first)
        outcomes.total_seconds.append(time.monotonic() - started)
        outcomes.answered_at.append(time.monotonic())

    async def open_loop(self, rate: float, seconds: float, outcomes: Outcomes | None = None) -> Outcomes:
        """Poisson arrivals: requests do not wait for earlier answers. `outcomes` may be observed meanwhile."""
        outcomes, started = outcomes or Outcomes(), time.monotonic()
        asks = (self.ask(outcomes) for _ in itertools.count())
        await on_arrival(asks, arrivals(self._rng, rate, seconds))
        outcomes.seconds = time.monotonic() - started
        return outcomes

    async def closed_loop(self, callers: int, seconds: float) -> Outcomes:
        """Run a number of callers, each of which asks again when it has its answer."""
        outcomes, started = Outcomes(), time.monotonic()

        def asks() -> Iterator[Ask]:
            while time.monotonic() < started + seconds:
                yield self.ask(outcomes)

        await in_turns(asks(), callers)
        outcomes.seconds = time.monotonic() - started
        return outcomes


def arrivals(rng: random.Random, rate: float, seconds: float) -> Iterator[float]:
    """The moments of Poisson arrivals, `rate` a second, in seconds from the start."""
    due = 0.0
    while (due := due + rng.expovariate(rate)) < seconds:
        yield due


async def on_arrival(asks: Iterator[Ask], moments: Iterable[float]) -> None:
    """An open loop: begin the next request at each moment, in seconds from now, and wait for all of them."""
    started = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for due in moments:
            await asyncio.sleep(max(started + due - time.monotonic(), 0))
            tasks.create_task(next(asks))


async def in_turns(asks: Iterator[Ask], callers: int) -> None:
    """A closed loop: each caller starts a request as soon as its previous one has ended, until all are done."""

    async def call() -> None:
        for ask in asks:
            await ask

    await asyncio.gather(*(call() for _ in range(callers)))


def _jpeg(image: Image.Image) -> bytes:
    """Created once: on a small machine the callers must not take the services' time."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()
