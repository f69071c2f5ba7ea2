"""One cell of the table: a number of callers at one ratio, for some seconds."""

import asyncio
import io
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from visionsplit_cli.plan.images import any_number, varied
from visionsplit_client import AsyncClient, Compression, EncodedImage, Prompt, Sampling, TextDelta

METHOD = "globalcom2"
PROMPT = Prompt.raw("USER: <image> What is in it? ASSISTANT:")
_TIMEOUT_SECONDS = 300.0
_IMAGES = 512  # more than a KV cache holds, so that no prompt is found there


@dataclass(frozen=True)
class Cell:
    """What is measured."""

    part: str  # "both", "llm" (tokens that were encoded before) or "encoder"
    callers: int
    ratio: float

    @property
    def compression(self) -> Compression:
        return Compression("none") if self.ratio == 1 else Compression(METHOD, self.ratio)


@dataclass
class _Seen:
    """What happened in the window."""

    begin: float
    end: float
    tokens: int = 0
    encoded: int = 0
    first_seconds: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)  # seconds for a token after the first

    def holds(self, now: float) -> bool:
        return self.begin <= now < self.end


@dataclass(frozen=True)
class Result:
    """What was measured."""

    cell: Cell
    images_per_second: float
    tokens_per_second: float
    first_seconds: list[float]  # p50 and p99 of the time to the first token; empty without an answer
    gap_seconds: list[float]  # p50 and p99 of the time between tokens
    prompt_tokens: int  # of a request, vision tokens included
    upload_bytes: int  # of a request's vision tokens


class Meter:
    """Measures cells with two running services. Use it as an async context manager."""

    def __init__(self, encoder: str, llm: str, *, image_side: int, new_tokens: int) -> None:
        self._client = AsyncClient(encoder, llm=llm, timeout=_TIMEOUT_SECONDS)
        self._sampling = Sampling(max_new_tokens=new_tokens)
        self._new_tokens = new_tokens
        self._images = itertools.cycle([_jpeg(image_side, seed) for seed in range(_IMAGES)])

    async def __aenter__(self) -> "Meter":
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def measure(self, cell: Cell, *, warm_seconds: float, seconds: float) -> Result:
        """Run the callers, each of which asks again when it has its answer."""
        encoded = await self._client.encode(next(self._images), cell.compression)
        answer = await self._client.generate_from_tokens(encoded, PROMPT, sampling=Sampling(max_new_tokens=1))
        begin = time.monotonic() + warm_seconds
        seen = _Seen(begin, begin + seconds)
        ask = self._asking(cell, encoded)

        async def call(number: int) -> None:
            await asyncio.sleep(number / cell.callers * warm_seconds / 2)  # not all in the same step for ever
            while time.monotonic() < seen.end:
                await ask(seen)

        calls = [asyncio.ensure_future(call(number)) for number in range(cell.callers)]
        await asyncio.wait(calls, timeout=warm_seconds + seconds)
        for ended in calls:  # an answer that outlasts the window would only cost time
            ended.cancel()
        failures = [one for one in await asyncio.gather(*calls, return_exceptions=True) if isinstance(one, Exception)]
        if failures:
            raise failures[0]
        images = seen.encoded if cell.part == "encoder" else seen.tokens / self._new_tokens
        return Result(
            cell,
            images / seconds,
            seen.tokens / seconds,
            _percentiles(seen.first_seconds),
            _percentiles(seen.gaps),
            answer.usage.prompt_tokens,
            encoded.tokens.num_bytes,
        )

    def _asking(self, cell: Cell, encoded: EncodedImage) -> Callable[[_Seen], Awaitable[None]]:
        async def encode(seen: _Seen) -> None:
            await self._client.encode(next(self._images), cell.compression)
            seen.encoded += seen.holds(time.monotonic())

        async def answer(seen: _Seen) -> None:
            started = last = time.monotonic()
            stream = (
                self._client.stream(next(self._images), PROMPT, compression=cell.compression, sampling=self._sampling)
                if cell.part == "both"
                else self._client.stream_from_tokens(varied(encoded, any_number()), PROMPT, sampling=self._sampling)
            )
            async with stream as events:
                async for event in events:
                    if not isinstance(event, TextDelta):
                        continue
                    now, tokens = time.monotonic(), len(event.token_ids)
                    if seen.holds(now):
                        seen.tokens += tokens
                        if last == started:
                            seen.first_seconds.append(now - started)
                        else:
                            seen.gaps += [(now - last) / tokens] * tokens
                    last = now

        return encode if cell.part == "encoder" else answer


def _percentiles(seconds: list[float]) -> list[float]:
    return [float(value) for value in np.percentile(seconds, [50, 99])] if seconds else []


def _jpeg(side: int, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (42, 42, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()
