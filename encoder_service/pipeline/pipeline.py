"""Images in, events out: look up, decode, cut, encode, keep, in the order in which things become ready."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from visionsplit.errors import VisionSplitError
from visionsplit.images import ImageLimits
from visionsplit.serving.async_helpers import gather_or_cancel
from visionsplit.serving.fairness import Claim, FairGate

from encoder_service import defaults
from encoder_service.admission import Place, TileRoom
from encoder_service.caching.entry import CachedTokens
from encoder_service.caching.key import TokensKey
from encoder_service.caching.tokens import CacheCounts, CacheUse, Hit, TokenCache
from encoder_service.device.jobs import SpanResult
from encoder_service.device.queue import TileBatcher
from encoder_service.device.text_tower import TextTower
from encoder_service.images.tiles import Tiler
from encoder_service.pipeline.events import Event, ImageProgress
from encoder_service.pipeline.fanout import in_thread, naming
from encoder_service.pipeline.preparation import Header, Preparation
from encoder_service.pipeline.shared_encoding import Flight, ImageSource, Landed, TokensWanted


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
        batch_tiles: int,
        max_decoding_bytes: int = defaults.MAX_DECODING_BYTES,
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
        self._flights: dict[str, Flight] = {}  # those that others may join, by `TokensKey.request`
        self._room = TileRoom(max_tiles, caller_share=caller_share, batch_tiles=batch_tiles)
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
        """Tiles that hold a place; any thread may ask."""
        return self._room.taken

    @property
    def cache_counts(self) -> CacheCounts | None:
        """What the cache has done; None without one. Any thread may ask."""
        return None if self._cache is None else self._cache.counts()

    def close(self) -> None:
        """End the threads, and finish what the cache is writing."""
        self._preparation.close()
        self._lookups.shutdown(wait=True, cancel_futures=True)
        if self._cache is not None:
            self._cache.close()

    @asynccontextmanager
    async def prepared(self, images: list[bytes], wanted: TokensWanted) -> AsyncIterator[list[ImageSource]]:
        """A request's images, from the cache, or decoded and cut in parallel; leaving gives up what they still hold.

        Room is reserved by the files' headers, before any pixel is decoded; what need not be encoded takes none.

        Raises:
            InvalidImageError: names the image by its index.
            InvalidCompressionError: an image whose tokens are in the cache would keep none; names it by its index.
            OverloadedError: there is no room for the tiles, or their turn would come too late.
        """
        headers = await self._preparation.headers(images, wanted.caller)
        if wanted.text is not None:
            wanted = replace(
                wanted, embedded=await self._preparation.embed(wanted.text, wanted.caller)
            )  # once for all images
        keys, hits = await self._look_up(headers, wanted)
        sources = self._board(images, headers, keys, hits, wanted)
        try:
            await gather_or_cancel([_prepared(index, source) for index, source in enumerate(sources)])
            yield sources
        finally:
            for source in sources:
                source.leave()

    async def encode(self, images: Sequence[ImageSource], *, call_start: float) -> AsyncGenerator[Event, None]:
        """Encode prepared images; the events of different images may interleave, those of one are in order.

        Close the iterator, and leave `prepared`, to give up: tiles that nobody else waits for then leave the queue.

        Args:
            images: the images of one request.
            call_start: when the call began, seconds of time.monotonic.

        Raises:
            InvalidCompressionError: an image would keep no token; names it by its index.
            InternalError: the device failed.
        """
        arrived: asyncio.Queue[tuple[int, SpanResult]] = asyncio.Queue()  # at most one result of each tile

        def arrive(index: int, result: SpanResult) -> None:
            arrived.put_nowait((index, result))

        self._submit(images)
        progress = [ImageProgress(index, source, call_start) for index, source in enumerate(images)]
        listeners = [partial(arrive, index) for index in range(len(images))]
        for source, listener in zip(images, listeners, strict=True):
            source.follow(listener)
        unfinished = len(images)
        try:
            while unfinished:
                index, result = await arrived.get()
                if isinstance(result, VisionSplitError):
                    with naming(index):
                        raise result
                unfinished -= result.stop_tile == images[index].grid.num_tiles
                for event in progress[index].take(result):
                    yield event
        finally:
            for source, listener in zip(images, listeners, strict=True):
                source.unfollow(listener)

    async def _look_up(
        self, headers: list[Header], wanted: TokensWanted
    ) -> tuple[list[TokensKey | None], list[Hit | None]]:
        """The names of the images' tokens, and those that are in the cache."""
        cache = self._cache
        # What depends on a text is not kept: it is the answer to one question.
        if cache is None or wanted.text is not None:
            return [None] * len(headers), [None] * len(headers)
        keys = [cache.key(header.digest, wanted.composition, wanted.data_type) for header in headers if header.digest]
        while True:
            stamps = [cache.stamp(key) for key in keys]
            finds = [self._find(cache, index, key, wanted) for index, key in enumerate(keys)]
            hits = await gather_or_cancel(finds)
            # A flight may have landed during the search; then it would be encoded a second time.
            if all(hit or cache.stamp(key) is stamp for hit, key, stamp in zip(hits, keys, stamps, strict=True)):
                return list(keys), hits

    async def _find(self, cache: TokenCache, index: int, key: TokensKey, wanted: TokensWanted) -> Hit | None:
        with naming(index):
            async with self._lookup_turns.place(wanted.caller):
                return await in_thread(self._lookups, cache.find, key, wanted.composition)

    def _board(
        self,
        images: list[bytes],
        headers: list[Header],
        keys: list[TokensKey | None],
        hits: list[Hit | None],
        wanted: TokensWanted,
    ) -> list[ImageSource]:
        """A flight for each image that is not cached: one that is under way, or a new one.

        Nothing here waits, so that no two calls begin the same flight.
        """
        names = [str(index) if key is None else key.request for index, key in enumerate(keys)]
        new = {
            name: index
            for index, name in reversed(list(enumerate(names)))
            if hits[index] is None and name not in self._flights
        }
        tiles = [headers[index].most_tiles for index in new.values()]
        places = self._room.reserve(tiles, wanted.caller, wanted.deadline) if tiles else []
        begun = {
            name: self._begin(images[index], headers[index], place, keys[index], wanted)
            for (name, index), place in zip(new.items(), places, strict=True)
        }
        sources: list[ImageSource] = []
        for index, (name, hit) in enumerate(zip(names, hits, strict=True)):
            self._count(hit, joined=new.get(name) != index)
            flight = begun.get(name) or self._flights.get(name)
            if hit is not None:
                sources.append(Landed(hit))
            elif flight is not None:
                sources.append(flight.board(wanted.caller))
                if flight.job is not None:
                    self._batcher.hasten(flight.job, wanted.caller)
        return sources

    def _begin(self, data: bytes, header: Header, place: Place, key: TokensKey | None, wanted: TokensWanted) -> Flight:
        claim = Claim(wanted.caller)
        preparing = self._preparation.prepare(data, header, place, wanted.composition.layout, claim)
        flight = Flight(preparing, place, wanted, claim, partial(self._ended, key), cached=key is not None)
        if key is not None:
            self._flights[key.request] = flight
        return flight

    def _ended(self, key: TokensKey | None, flight: Flight) -> None:
        """The tokens go into the cache in the moment in which nobody can join the flight any more."""
        if flight.job is not None and not flight.complete:
            self._batcher.cancel(flight.job)
        if key is not None and self._cache is not None:
            del self._flights[key.request]
            if flight.complete:
                self._cache.put(key, CachedTokens.of(flight.grid, flight.results))

    def _submit(self, images: Sequence[ImageSource]) -> None:
        """Queue the images that nobody has queued, all at once: they may share a batch."""
        flights = [image for image in dict.fromkeys(images) if isinstance(image, Flight)]
        jobs = [job for flight in flights if (job := flight.make_job()) is not None]
        try:
            self._batcher.submit(jobs)
        except VisionSplitError as error:
            for job in jobs:
                job.deliver(error)
            raise

    def _count(self, hit: Hit | None, *, joined: bool) -> None:
        if self._cache is not None:
            self._cache.count(CacheUse.MISS if hit is None else hit.use, joined=hit is None and joined)


async def _prepared(index: int, source: ImageSource) -> None:
    with naming(index):
        await source.prepared()
