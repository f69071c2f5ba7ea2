"""The stages before the device: reading an image's header, decoding and cutting it, embedding a request's text.

All of it blocks, so it runs on threads, and callers take turns at these.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from PIL import Image
from visionsplit.errors import InvalidCompressionError, InvalidImageError
from visionsplit.families.tiler import Tiler
from visionsplit.grid import UnpadRule
from visionsplit.images import ImageHeader, ImageLimits, ProcessDecoder, decode_image, read_header
from visionsplit.options.layout import UNPAD_RULES, Layout
from visionsplit.serving.async_helpers import finish_despite_cancellation, gather_or_cancel
from visionsplit.serving.fairness import Claim, FairGate

from encoder_service.caching.key import image_digest
from encoder_service.device.encoding import PreparedImage
from encoder_service.device.text_tower import TextTower
from encoder_service.pipeline.decoding_turns import DecodingTurns

_T = TypeVar("_T")

_HEADER_THREADS = 2


async def in_thread(
    pool: Executor, function: Callable[..., _T], *arguments: object, on_cancel: Callable[[], object] | None = None
) -> _T:
    """The result of a function that blocks.

    A thread cannot be stopped. So a task that is cancelled here leaves only when the function has returned, and keeps
    its turn and its memory until then. Otherwise, cancelled calls could fill the threads and the memory.

    Args:
        pool: whose thread runs the function.
        function: is called with the arguments.
        on_cancel: called when the task is cancelled; it may make the function return sooner.
    """
    work = asyncio.get_running_loop().run_in_executor(pool, function, *arguments)
    return await finish_despite_cancellation(work, on_cancel=on_cancel)


@contextmanager
def prefix_errors_with_image_index(index: int) -> Iterator[None]:
    """Prefix errors about one image of a request with the image's index."""
    try:
        yield
    except (InvalidImageError, InvalidCompressionError) as error:
        raise type(error)(f"image {index}: {error}") from error


@dataclass(frozen=True)
class Header:
    """What is known about an image before it is decoded."""

    image: ImageHeader
    most_tiles: int
    digest: str | None  # of its bytes, if tokens are cached


class Preparation:
    """Threads that prepare images. Used from one event loop."""

    def __init__(
        self,
        tiler: Tiler,
        limits: ImageLimits,
        *,
        threads: int,
        max_bytes: int,
        digests: bool,
        text_tower: TextTower | None,
    ) -> None:
        """
        Args:
            threads: that decode and cut. Images that are decoded in other processes have further ones.
            max_bytes: of memory that they take together.
            digests: whether headers come with the digest of the image's bytes.
        """
        self._tiler = tiler
        self._limits = limits
        self._digests = digests
        self._text_tower = text_tower
        # Headers have separate threads: a refused request must not wait for other requests' images.
        self._headers = ThreadPoolExecutor(_HEADER_THREADS, thread_name_prefix="encoder-header")
        self._header_turns = FairGate(_HEADER_THREADS)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="encoder-image")
        self._turns = DecodingTurns(threads, max_bytes)
        self._apart = ThreadPoolExecutor(self._turns.apart_places, thread_name_prefix="encoder-apart")
        self._decoders: set[ProcessDecoder] = set()  # those that are running
        self._texts = ThreadPoolExecutor(1, thread_name_prefix="encoder-text")
        self._text_turns = FairGate()

    def close(self) -> None:
        """End the threads, and the processes that decode images."""
        for decoder in self._decoders:
            decoder.stop()
        for pool in (self._headers, self._pool, self._apart, self._texts):
            pool.shutdown(wait=True, cancel_futures=True)

    async def headers(self, images: Sequence[bytes], caller: str) -> list[Header]:
        """
        Raises:
            InvalidImageError: one of them is not an image, or is too large; names it by its index.
        """
        alone = self._tiler.cutting.alone(len(images))
        headers = [self._header(index, image, caller, alone=alone) for index, image in enumerate(images)]
        return await gather_or_cancel(headers)

    async def prepare(
        self, data: bytes, header: Header, layout: Layout, claim: Claim, *, alone: bool = True
    ) -> PreparedImage:
        """Decode and cut an image once its turn has come.

        A task that is cancelled meanwhile ends only with the work of its thread, and keeps the turn until then.

        Args:
            header: of this image.
            layout: for which the image is encoded.
            claim: of the callers that want it.
            alone: see `Cutting.grid_of`.

        Raises:
            InvalidImageError: it cannot be decoded.
            OverloadedError: of `ProcessDecoder.decode`.
        """
        async with self._turns.turn(header.image, claim):
            cut = partial(self._cut, rule=UNPAD_RULES[layout], alone=alone)
            if header.image.needs_process:
                return await self._prepare_apart(data, header.image.decoding_bytes, cut)
            return await in_thread(self._pool, cut, partial(decode_image, data, self._limits))

    async def embed(self, text: str, caller: str) -> torch.Tensor:
        """Embed a text with the text tower, [E] float32."""
        assert self._text_tower is not None, "the service refuses such requests where there is none"
        async with self._text_turns.place(caller):
            return await in_thread(self._texts, self._text_tower.embed, text)

    async def _prepare_apart(
        self, data: bytes, decoding_bytes: int, cut: Callable[[Callable[[], Image.Image]], PreparedImage]
    ) -> PreparedImage:
        decoder = ProcessDecoder()
        decode = partial(decoder.decode, data, self._limits, decoding_bytes)
        self._decoders.add(decoder)
        try:
            return await in_thread(self._apart, cut, decode, on_cancel=decoder.stop)
        finally:
            self._decoders.remove(decoder)

    async def _header(self, index: int, data: bytes, caller: str, *, alone: bool) -> Header:
        with prefix_errors_with_image_index(index):
            async with self._header_turns.place(caller):
                return await in_thread(self._headers, self._read, data, alone)

    def _read(self, data: bytes, alone: bool) -> Header:
        image = read_header(data, self._limits)
        self._turns.check(image)
        tiles = self._tiler.cutting.most_tiles(image.width, image.height, alone=alone)
        return Header(image, tiles, image_digest(data) if self._digests else None)

    def _cut(self, decode: Callable[[], Image.Image], *, rule: UnpadRule, alone: bool) -> PreparedImage:
        started = time.monotonic()
        tiles = self._tiler.cut(decode(), rule, alone=alone)
        return PreparedImage(tiles.pixels, tiles.grid, time.monotonic() - started)
