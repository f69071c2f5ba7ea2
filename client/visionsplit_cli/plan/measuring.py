"""Images per second of an encoder alone and of a language model alone."""

import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from visionsplit.serving.async_helpers import gather_or_cancel
from visionsplit_client import AsyncClient, Compression, EncodedImage, Generation, Retries, Sampling

from visionsplit_cli.plan.groups import Rate
from visionsplit_cli.plan.images import InputImages, any_number, varied

_T = TypeVar("_T")
# Refused calls are repeated, because the measurement is meant to fill the services.
RETRIES = Retries(attempts=30, overloaded=True)
_FIRST_CALLS = 2  # of one service


@dataclass(frozen=True)
class Effort:
    """The duration and the load of a measurement."""

    seconds: float  # in which calls begin
    in_flight: int  # calls at once for each service, at most


@dataclass(frozen=True)
class Encoding:
    """An encoder at one ratio."""

    rate: Rate
    images: tuple[EncodedImage, ...]  # one for each image


@dataclass(frozen=True)
class Answering:
    """A language model at one ratio."""

    rate: Rate
    vision_tokens: float  # of an image, with newlines; a mean, as all of these
    prompt_tokens: float  # the text included
    generated_tokens: float


class EncoderMeter:
    """Encodes images as fast as equal encoder services do."""

    def __init__(self, client: AsyncClient, images: InputImages, effort: Effort, *, services: int = 1) -> None:
        self._client = client
        self._num_images = len(images.files)
        self._stream: Iterator[tuple[int, bytes]] = images.stream()
        self._meter = _Meter(effort, services)

    async def check(self, compression: Compression) -> None:
        """Encode one image; raises what the encoder refuses."""
        _, content = next(self._stream)
        await self._client.encode(content, compression)

    async def measure(self, compression: Compression) -> Encoding:
        async def encode() -> tuple[int, EncodedImage]:
            index, content = next(self._stream)
            return index, await self._client.encode(content, compression)

        rate, encoded = await self._meter.rate(encode, turn=self._num_images)
        return Encoding(rate, tuple(image for _, image in sorted(dict(encoded).items())))


class LlmMeter:
    """Asks about tokens that were encoded before, as fast as an LLM service answers."""

    def __init__(
        self, client: AsyncClient, prompt: str, sampling: Sampling, effort: Effort, *, replicas: int = 1
    ) -> None:
        self._client = client
        self._prompt = prompt
        self._sampling = sampling
        self._meter = _Meter(effort, replicas)

    async def measure(self, images: tuple[EncodedImage, ...]) -> Answering:
        next_images = itertools.cycle(images)

        async def ask() -> Generation:
            tokens = varied(next(next_images), any_number())
            return await self._client.generate_from_tokens(tokens, self._prompt, sampling=self._sampling)

        rate, answers = await self._meter.rate(ask, turn=len(images))
        uses = [answer.usage for answer in answers]
        return Answering(
            rate,
            sum(use.vision_tokens + use.newline_tokens for use in uses) / len(uses),
            sum(use.prompt_tokens for use in uses) / len(uses),
            sum(use.generated_tokens for use in uses) / len(uses),
        )


class _Meter:
    """Measures calls of one kind, and remembers how many calls at a time fill the services."""

    def __init__(self, effort: Effort, services: int) -> None:
        self._seconds = effort.seconds
        self._services = services
        self._most = effort.in_flight * services
        self._in_flight = min(_FIRST_CALLS, effort.in_flight) * services

    async def rate(self, call: Callable[[], Awaitable[_T]], *, turn: int) -> tuple[Rate, list[_T]]:
        """Make calls for some seconds, and count until the last one has ended; what they gave comes along.

        The time in which the services fill and empty is in it, so the rate is a little low rather than high: were
        only ends counted, work that was begun before would count as done in no time.

        Args:
            turn: calls until the same images come again. Whole turns are made, however long they take: each image
                then counts as often as any other.
        """
        await self._fill(call)
        begun = 0
        given: list[_T] = []
        started, computed = time.monotonic(), time.process_time()

        async def caller() -> None:
            nonlocal begun
            while time.monotonic() < started + self._seconds or begun % turn or not begun:
                begun += 1
                given.append(await call())

        await gather_or_cancel(caller() for _ in range(self._in_flight))
        seconds = time.monotonic() - started
        busy = (time.process_time() - computed) / seconds
        return Rate(len(given), seconds, self._services, self._in_flight, busy), given

    async def _fill(self, call: Callable[[], Awaitable[Any]]) -> None:
        """Make more and more calls at once, as long as such a wave leaves time for another as large.

        The first waves also load kernels and fill pools of memory. Where calls take long, few at once must do.
        """
        while True:
            started = time.monotonic()
            await gather_or_cancel(call() for _ in range(self._in_flight))
            if self._in_flight == self._most or 2 * (time.monotonic() - started) > self._seconds:
                return
            self._in_flight = min(2 * self._in_flight, self._most)
