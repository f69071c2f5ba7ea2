"""Converts images to events: look-up, decoding, cutting and encoding, in the order in which results become ready."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial

from visionsplit.errors import VisionSplitError
from visionsplit.families.tiler import Tiler
from visionsplit.images import ImageLimits
from visionsplit.serving.async_helpers import gather_or_cancel
from visionsplit.serving.fairness import FairGate

from encoder_service.caching.entry import CachedTokens
from encoder_service.caching.key import TokensKey
from encoder_service.caching.tokens import CacheCounts, CacheUse, Hit, TokenCache
from encoder_service.config import EncoderConfig
from encoder_service.device.encoding import SpanResult
from encoder_service.device.text_tower import TextTower
from encoder_service.device.tile_queue import TileBatcher
from encoder_service.pipeline.events import Event, ImageDone
from encoder_service.pipeline.preparation import Header, Preparation, in_thread, prefix_errors_with_image_index
from encoder_service.pipeline.progress import ImageProgress
from encoder_service.pipeline.shared_encoding import (
    CachedImage,
    ImageSource,
    SharedEncoding,
    TokensWanted,
    submit_together,
)
from encoder_service.pipeline.tile_capacity import TileCapacity, TilePlace


class EncoderPipeline:
    """The path of images from bytes to kept tokens. Used from one event loop."""

    def __init__(
        self,
        tiler: Tiler,
        batcher: TileBatcher,
        limits: ImageLimits,
        *,
        threads: int,
        max_tiles: int,
        batch_tiles: int,
        max_decoding_bytes: int = EncoderConfig.max_decoding_bytes,
        caller_share: float = 1.0,
        cache: TokenCache | None = None,
        text_tower: TextTower | None = None,
    ) -> None:
        """
        Args:
            threads: that decode and cut images.
            max_tiles: held at once.
            batch_tiles: that the device encodes at once.
            max_decoding_bytes: of memory that decoding takes at once.
            caller_share: the part of the tiles that one caller may have.
        """
        self._batcher = batcher
        self._cache = cache
        self._cutting = tiler.cutting
        self._encodings: dict[str, SharedEncoding] = {}  # those that other calls may join, by `TokensKey.request`
        self._capacity = TileCapacity(max_tiles, caller_share=caller_share, batch_tiles=batch_tiles)
        self._lookups = ThreadPoolExecutor(threads, thread_name_prefix="encoder-cache")
        self._lookup_turns = FairGate(threads)
        self._preparation = Preparation(
            tiler,
            limits,
            threads=threads,
            max_bytes=max_decoding_bytes,
            digests=cache is not None,
            text_tower=text_tower,
        )

    @property
    def reserved_tiles(self) -> int:
        """The number of tiles that hold a place; callable from any thread."""
        return self._capacity.taken

    @property
    def queued_tiles(self) -> int:
        """The number of tiles that wait for the device; callable from any thread."""
        return self._batcher.queued_tiles

    @property
    def cache_counts(self) -> CacheCounts | None:
        """The cache's counters; None without a cache. Callable from any thread."""
        return None if self._cache is None else self._cache.counts()

    def close(self) -> None:
        """End the threads, and wait for the cache's writes."""
        self._preparation.close()
        self._lookups.shutdown(wait=True, cancel_futures=True)
        if self._cache is not None:
            self._cache.close()

    @asynccontextmanager
    async def prepared(self, images: Sequence[bytes], wanted: TokensWanted) -> AsyncIterator[list[ImageSource]]:
        """A request's images, from the cache, or decoded and cut in parallel; leaving releases what they still hold.

        Capacity is reserved by the files' headers, before any pixel is decoded; what need not be encoded takes none.

        Raises:
            InvalidImageError: names the image by its index.
            InvalidCompressionError: an image whose tokens are in the cache would keep none; names it by its index.
            OverloadedError: there is no capacity for the tiles, or their turn would come too late.
        """
        headers = await self._preparation.headers(images, wanted.caller)
        if wanted.text is not None:
            embedded = await self._preparation.embed(wanted.text, wanted.caller)  # once for all images of the request
            wanted = replace(wanted, embedded=embedded)
        alone = self._cutting.alone(len(images))
        keys, hits = await self._look_up(headers, wanted, alone=alone)
        sources = self._sources(images, headers, keys, hits, wanted, alone=alone)
        try:
            await gather_or_cancel([_prepared(index, source) for index, source in enumerate(sources)])
            yield sources
        finally:
            for source in sources:
                source.leave()

    async def encode(
        self,
        images: Sequence[ImageSource],
        *,
        call_start: float,
        on_image_done: Callable[[ImageDone], None] | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Encode prepared images; the events of different images may interleave, those of one are in order.

        Close the iterator, and leave `prepared`, to cancel: tiles that no other call waits for then leave the queue.

        Args:
            images: the images of one request.
            call_start: when the call began, seconds of time.monotonic.
            on_image_done: called with each image's last event, before the event itself comes out.

        Raises:
            InvalidCompressionError: an image would keep no token; names it by its index.
            InternalError: the device failed.
        """
        arrived: asyncio.Queue[tuple[int, SpanResult]] = asyncio.Queue()  # at most one result of each tile

        def arrive(index: int, result: SpanResult) -> None:
            arrived.put_nowait((index, result))

        # An encoding may stand here twice, for equal images of the request; it is queued once.
        encodings = [image for image in dict.fromkeys(images) if isinstance(image, SharedEncoding)]
        submit_together(encodings, self._batcher)
        progress = [ImageProgress(index, image, call_start) for index, image in enumerate(images)]
        unfinished = len(images)
        with ExitStack() as following:
            for index, image in enumerate(images):
                following.enter_context(image.followed_by(partial(arrive, index)))
            while unfinished:
                index, result = await arrived.get()
                if isinstance(result, VisionSplitError):
                    with prefix_errors_with_image_index(index):
                        raise result
                for event in progress[index].take(result):
                    if isinstance(event, ImageDone):
                        unfinished -= 1
                        if on_image_done is not None:
                            on_image_done(event)
                    yield event

    async def _look_up(
        self, headers: list[Header], wanted: TokensWanted, *, alone: bool
    ) -> tuple[list[TokensKey | None], list[Hit | None]]:
        """The names of the images' tokens, and those that are in the cache."""
        cache = self._cache
        # Tokens that depend on a text are not cached, since they answer one question.
        if cache is None or wanted.text is not None:
            return [None] * len(headers), [None] * len(headers)
        name = partial(cache.key, composition=wanted.composition, data_type=wanted.data_type, alone=alone)
        keys = [name(header.digest) for header in headers if header.digest]
        while True:
            stamps = [cache.stamp(key) for key in keys]
            finds = [self._find(cache, index, key, wanted) for index, key in enumerate(keys)]
            hits = await gather_or_cancel(finds)
            # An encoding may have ended during the search: its tokens came into the cache too late to be found, and it
            # can no longer be joined. Without another look the image would be encoded a second time.
            if all(hit or cache.stamp(key) is stamp for hit, key, stamp in zip(hits, keys, stamps, strict=True)):
                return list(keys), hits

    async def _find(self, cache: TokenCache, index: int, key: TokensKey, wanted: TokensWanted) -> Hit | None:
        with prefix_errors_with_image_index(index):
            async with self._lookup_turns.place(wanted.caller):
                return await in_thread(self._lookups, cache.find, key, wanted.composition)

    def _sources(
        self,
        images: Sequence[bytes],
        headers: list[Header],
        keys: list[TokensKey | None],
        hits: list[Hit | None],
        wanted: TokensWanted,
        *,
        alone: bool,
    ) -> list[ImageSource]:
        """Where each image's tokens come from: the cache, an encoding that is under way, or a new one.

        Nothing here waits, so that no two calls begin the same encoding.
        """
        names = [str(index) if key is None else key.request for index, key in enumerate(keys)]
        # By name, the first of equal images: the others join its encoding.
        new = {
            name: index
            for index, name in reversed(list(enumerate(names)))
            if hits[index] is None and name not in self._encodings
        }
        tiles = [headers[index].most_tiles for index in new.values()]
        places = self._capacity.reserve(tiles, wanted.caller, wanted.deadline) if tiles else []
        begun = {
            name: self._begin(images[index], headers[index], place, keys[index], wanted, alone=alone)
            for (name, index), place in zip(new.items(), places, strict=True)
        }
        sources: list[ImageSource] = []
        for index, (name, hit) in enumerate(zip(names, hits, strict=True)):
            self._count(hit, joined=new.get(name) != index)
            if hit is not None:
                sources.append(CachedImage(hit))
                continue
            encoding = begun.get(name) or self._encodings[name]
            encoding.join(wanted.caller)
            sources.append(encoding)
        return sources

    def _begin(
        self,
        data: bytes,
        header: Header,
        place: TilePlace,
        key: TokensKey | None,
        wanted: TokensWanted,
        *,
        alone: bool,
    ) -> SharedEncoding:
        prepare = partial(self._preparation.prepare, data, header, wanted.composition.layout, alone=alone)
        if key is None:
            return SharedEncoding(prepare, place, self._batcher, wanted)
        encoding = SharedEncoding(prepare, place, self._batcher, wanted, partial(self._ended, key))
        self._encodings[key.request] = encoding
        return encoding

    def _ended(self, key: TokensKey, tokens: CachedTokens | None) -> None:
        """Keep the tokens of an encoding in the step in which it can no longer be joined."""
        del self._encodings[key.request]
        if tokens is not None and self._cache is not None:
            self._cache.put(key, tokens)

    def _count(self, hit: Hit | None, *, joined: bool) -> None:
        if self._cache is not None:
            self._cache.count(CacheUse.MISS if hit is None else hit.use, joined=hit is None and joined)


async def _prepared(index: int, source: ImageSource) -> None:
    with prefix_errors_with_image_index(index):
        await source.prepared()
