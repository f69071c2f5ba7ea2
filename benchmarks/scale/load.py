"""Asks as fast as the answers come, and counts them in windows of equal length."""

import asyncio
import io
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from visionsplit_client import AsyncClient, Compression, EncodedImage, Prompt, Sampling, TextDelta

COMPRESSION = Compression("globalcom2", 0.1)
PROMPT = Prompt.raw("USER: <image> What is it? ASSISTANT:")
_SIZE = (672, 672)  # five tiles
_TIMEOUT_SECONDS = 120.0


@dataclass
class Counted:
    """What ended in the windows."""

    window_seconds: float
    ends: list[int]  # by window
    first_seconds: list[float] = field(default_factory=list)  # to the first token, of what ended in a window

    @property
    def rates(self) -> list[float]:
        """Ends a second, by window."""
        return [count / self.window_seconds for count in self.ends]


Ask = Callable[[], Awaitable[float]]  # asks once; the seconds to the first token, 0 where there is none


async def closed_loop(
    ask: Ask, *, callers: int, warm_seconds: float, window_seconds: float, windows: int, tail_seconds: float
) -> Counted:
    """Run callers that ask again when they have their answer. What ends before or after the windows is not counted.

    The callers begin one after the other, or all their answers would end at the same moments for ever.
    """
    counted = Counted(window_seconds, [0] * windows)
    begin = time.monotonic() + warm_seconds
    end = begin + windows * window_seconds

    async def call(number: int) -> None:
        await asyncio.sleep(number / callers * warm_seconds / 2)
        while time.monotonic() < end + tail_seconds:
            first = await ask()
            now = time.monotonic()
            if begin <= now < end:
                counted.ends[int((now - begin) / window_seconds)] += 1
                counted.first_seconds.append(first)

    await asyncio.gather(*(call(number) for number in range(callers)))
    return counted


class Questions:
    """Calls of one kind, spread evenly over clients. Use it as an async context manager."""

    def __init__(self, *, encoders: Sequence[str] = (), llms: Sequence[str] = (), new_tokens: int) -> None:
        if encoders:
            self._clients = [AsyncClient(list(encoders), timeout=_TIMEOUT_SECONDS)]
        else:
            self._clients = [AsyncClient(llm=address, timeout=_TIMEOUT_SECONDS) for address in llms]
        self._turns = itertools.cycle(self._clients)
        self._sampling = Sampling(max_new_tokens=new_tokens)
        self._numbers = itertools.count()
        self._image = _jpeg()

    async def __aenter__(self) -> "Questions":
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            await client.close()

    async def encode(self) -> float:
        await next(self._turns).encode(self._next_image(), COMPRESSION)
        return 0.0

    async def generate(self) -> float:
        started, first = time.monotonic(), 0.0
        client = next(self._turns)
        async with client.stream(
            self._next_image(), PROMPT, compression=COMPRESSION, sampling=self._sampling
        ) as events:
            async for event in events:
                if isinstance(event, TextDelta) and not first:
                    first = time.monotonic() - started
        return first

    def answer(self, image: EncodedImage) -> Ask:
        """Asks about tokens that were encoded before."""

        async def ask() -> float:
            started, first = time.monotonic(), 0.0
            async with next(self._turns).stream_from_tokens(image, PROMPT, sampling=self._sampling) as events:
                async for event in events:
                    if isinstance(event, TextDelta) and not first:
                        first = time.monotonic() - started
            return first

        return ask

    def _next_image(self) -> bytes:
        # Decoders ignore bytes after the image; no two files are equal, so that no two are encoded as one.
        return self._image + next(self._numbers).to_bytes(4, "big")


async def encoded(address: str, ratio: float) -> EncodedImage:
    """The benchmark's image with a share of its tokens."""
    compression = Compression("none") if ratio == 1 else Compression("globalcom2", ratio)
    async with AsyncClient(address, timeout=_TIMEOUT_SECONDS) as client:
        return await client.encode(_jpeg(), compression, data_type="bfloat16")


def _jpeg() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (42, 42, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(_SIZE).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()
