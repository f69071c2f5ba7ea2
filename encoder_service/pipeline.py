"""Images in, events out: decode, cut, encode, keep, in the order in which things become ready."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from visionsplit.errors import InvalidCompressionError, InvalidImageError, VisionSplitError
from visionsplit.grid import Layout, TileGrid, UnpadRule
from visionsplit.wire.tensors import DataType, TokenTensor
from visionsplit.wire.vision_tokens import Positions

from encoder_service.admission import Place, TileRoom
from encoder_service.batching import TileBatcher
from encoder_service.compression import Composition
from encoder_service.image import ImageLimits, decode_image, read_size
from encoder_service.jobs import EncodedTiles, ImageJob, PreparedImage, SpanResult
from encoder_service.text_tower import TextTower
from encoder_service.tiles import Tiler

_T = TypeVar("_T")
_RULE = {Layout.SPATIAL: UnpadRule.HUGGING_FACE, Layout.REFERENCE: UnpadRule.REFERENCE}


@dataclass(frozen=True)
class BudgetsKnown:
    """Comes first for each image: how many tokens each tile will keep."""

    image_index: int
    grid: TileGrid
    budgets: list[int]
    quotas: list[int] | None = None  # tokens of each tile that the language model's pruning is to keep


@dataclass(frozen=True)
class TokensReady:
    """Some tiles' kept tokens, at least one."""

    image_index: int
    features: TokenTensor  # [K, Dv]
    positions: Positions  # [K, 3]


@dataclass(frozen=True)
class ImageDone:
    """Comes last for each image."""

    image_index: int
    grid: TileGrid
    budgets: list[int]
    wire_bytes: int  # features, scales and positions
    preprocess_seconds: float
    queue_seconds: float
    encode_seconds: float
    first_chunk_seconds: float
    total_seconds: float


Event = BudgetsKnown | TokensReady | ImageDone


@dataclass
class _Progress:
    """What is known of one image under way."""

    job: ImageJob
    first_tokens: float | None = None  # time.monotonic
    device_start: float | None = None
    encode_seconds: float = 0.0
    wire_bytes: int = 0


class EncoderPipeline:
    """The path of an image from bytes to kept tokens. Used from one event loop."""

    def __init__(
        self,
        tiler: Tiler,
        batcher: TileBatcher,
        limits: ImageLimits,
        *,
        threads: int,
        max_tiles: int,
        text_tower: TextTower | None = None,
    ) -> None:
        self._tiler = tiler
        self._batcher = batcher
        self._limits = limits
        self._room = TileRoom(max_tiles)
        # Headers have a thread of their own: a request that is refused must not wait for others' images.
        self._headers = ThreadPoolExecutor(1, thread_name_prefix="encoder-header")
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="encoder-image")
        self._text_tower = text_tower
        self._texts = ThreadPoolExecutor(1, thread_name_prefix="encoder-text")

    def close(self) -> None:
        """End the threads that decode and that read texts."""
        for pool in (self._headers, self._pool, self._texts):
            pool.shutdown(wait=True, cancel_futures=True)

    @asynccontextmanager
    async def prepared(self, images: list[bytes], layout: Layout) -> AsyncIterator[list[PreparedImage]]:
        """A request's images, decoded and cut in parallel; leaving gives up the room that they still take.

        The room is reserved by the files' headers, before any pixel is decoded.

        Raises:
            InvalidImageError: names the image by its index.
            OverloadedError: there is no room for so many tiles.
        """
        tiles = await _run_all(self._headers, [partial(self._count_tiles, *image) for image in enumerate(images)])
        places = self._room.reserve(tiles)
        try:
            yield await _run_all(
                self._pool,
                [
                    partial(self._prepare, index, data, place, _RULE[layout])
                    for index, (data, place) in enumerate(zip(images, places, strict=True))
                ],
            )
        finally:
            for place in places:
                place.leave()

    async def encode(
        self,
        images: list[PreparedImage],
        composition: Composition,
        data_type: DataType,
        *,
        call_start: float,
        text: str | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Encode prepared images; the events of different images may interleave, those of one are in order.

        Close the iterator to give up: tiles that have not been encoded then leave the queue.

        Args:
            images: the images of one request.
            composition: how to choose tokens.
            data_type: the tokens' format.
            call_start: when the call began, seconds of time.monotonic.
            text: what decides which tokens are kept, where the composition reads a text; embedded once for all images.

        Raises:
            InvalidCompressionError: an image would keep no token; names it by its index.
            InternalError: the device failed.
        """
        arrived: asyncio.Queue[tuple[int, SpanResult]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def deliver(index: int, result: SpanResult) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, (index, result))

        embedded = None if text is None else await self._embed(text)  # [E]
        jobs = [
            ImageJob(image, composition, data_type, partial(deliver, index), embedded)
            for index, image in enumerate(images)
        ]
        progress = [_Progress(job) for job in jobs]
        self._batcher.submit(jobs)
        unfinished = len(jobs)
        try:
            while unfinished:
                index, result = await arrived.get()
                if isinstance(result, InvalidCompressionError):
                    raise InvalidCompressionError(f"image {index}: {result}") from result
                if isinstance(result, VisionSplitError):
                    raise result
                if result.stop_tile == images[index].grid.num_tiles:
                    images[index].release()
                    unfinished -= 1
                for event in _events(index, result, progress[index], call_start):
                    yield event
        finally:
            for job in jobs:
                self._batcher.cancel(job)

    async def _embed(self, text: str) -> torch.Tensor:
        assert self._text_tower is not None, "the service refuses such requests where there is none"
        return await asyncio.get_running_loop().run_in_executor(self._texts, self._text_tower.embed, text)

    def _count_tiles(self, index: int, data: bytes) -> int:
        with _naming(index):
            return self._tiler.most_tiles(*read_size(data, self._limits))

    def _prepare(self, index: int, data: bytes, place: Place, rule: UnpadRule) -> PreparedImage:
        started = time.monotonic()
        with _naming(index):
            tiles = self._tiler.cut(decode_image(data, self._limits), rule)
        return PreparedImage(tiles.pixels, tiles.grid, time.monotonic() - started, place)


@contextmanager
def _naming(index: int) -> Iterator[None]:
    try:
        yield
    except InvalidImageError as error:
        raise InvalidImageError(f"image {index}: {error}") from error


async def _run_all(pool: ThreadPoolExecutor, tasks: list[Callable[[], _T]]) -> list[_T]:
    """The tasks' results in order; when one fails, those that have not begun never do."""
    loop = asyncio.get_running_loop()
    waiting = [loop.run_in_executor(pool, task) for task in tasks]
    try:
        return list(await asyncio.gather(*waiting))
    finally:
        for future in waiting:
            future.cancel()


def _events(index: int, result: EncodedTiles, progress: _Progress, call_start: float) -> list[Event]:
    """What one batch's result means for its image."""
    now = time.monotonic()
    grid = progress.job.image.grid
    events: list[Event] = []
    if progress.device_start is None:
        progress.device_start = result.started
        events.append(BudgetsKnown(index, grid, result.budgets, result.quotas))
    progress.encode_seconds += result.seconds
    if result.features.rows:
        if progress.first_tokens is None:
            progress.first_tokens = now
        progress.wire_bytes += result.features.num_bytes + result.positions.nbytes
        events.append(TokensReady(index, result.features, result.positions))
    if result.stop_tile == grid.num_tiles:
        events.append(
            ImageDone(
                index,
                grid,
                result.budgets,
                progress.wire_bytes,
                preprocess_seconds=progress.job.image.preprocess_seconds,
                queue_seconds=progress.device_start - progress.job.queued,
                encode_seconds=progress.encode_seconds,
                first_chunk_seconds=(progress.first_tokens or now) - call_start,
                total_seconds=now - call_start,
            )
        )
    return events
