"""The encoding of one image, shared by all calls that request the same tokens.

A call that asks for what is being encoded already joins the encoding: it gets the results so far and then the rest.
The encoding belongs to none of its calls. It goes on while one of them waits, and is cancelled when the last has left.

    preparing --> prepared --> queued --> ended
        |            |           |          ^    last tokens, failure of the device, or the last call has left
        +------------+-----------+----------+

All of it happens on one event loop. The device's thread hands its results over with `call_soon_threadsafe`.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from visionsplit.errors import VisionSplitError
from visionsplit.grid import TileGrid
from visionsplit.options.data_types import DataType
from visionsplit.serving.fairness import Claim

from encoder_service.caching.entry import CachedTokens
from encoder_service.caching.tokens import CacheUse, Hit
from encoder_service.compression import Composition
from encoder_service.device.encoding import EncodedTiles, EncodeRequest, PreparedImage, SpanResult
from encoder_service.device.tile_queue import QueuedImage, TileBatcher
from encoder_service.pipeline.tile_capacity import TilePlace

Listener = Callable[[SpanResult], None]


@dataclass(frozen=True)
class TokensWanted:
    """The tokens that a request wants of its images."""

    composition: Composition
    data_type: DataType
    caller: str = ""  # callers take turns
    text: str | None = None  # the text that decides what is kept, if the composition reads one
    embedded: torch.Tensor | None = None  # [E], the text tower's embedding of the text
    deadline: float | None = None  # when the caller's deadline expires, seconds of time.monotonic


class SharedEncoding:
    """Owns one image from its place among the tiles to its last tokens. Every `join` needs its `leave`."""

    def __init__(
        self,
        prepare: Callable[[Claim], Coroutine[None, None, PreparedImage]],
        place: TilePlace,
        device: TileBatcher,
        wanted: TokensWanted,
        on_end: Callable[[CachedTokens | None], None] | None = None,
    ) -> None:
        """
        Args:
            prepare: decodes and cuts the image, in the turn of the claim.
            place: room for the image's tiles. The encoding is its only holder and releases it.
            device: encodes the image.
            wanted: what the first call asks for.
            on_end: called once at the end, with all tokens, or with None if they are not complete. Where it is given,
                other calls may join at any time before, and results are kept for them.
        """
        self.cache = CacheUse.OFF if on_end is None else CacheUse.MISS
        self._claim = Claim(wanted.caller)
        self._preparing = asyncio.ensure_future(prepare(self._claim))
        self._preparing.add_done_callback(_note_failure)
        self._place = place
        self._device = device
        self._wanted = wanted
        self._on_end = on_end
        self._queued: QueuedImage | None = None
        self._calls = 0
        self._listeners: list[Listener] = []
        self._results: list[EncodedTiles] = []  # so far; empty without `on_end`
        self._encoded_tiles = 0
        self._failure: VisionSplitError | None = None
        self._ended = False

    @property
    def image(self) -> PreparedImage:
        """The image in tiles. Only once it is prepared."""
        return self._preparing.result()

    @property
    def grid(self) -> TileGrid:
        return self.image.grid

    @property
    def preprocess_seconds(self) -> float:
        return self.image.preprocess_seconds

    @property
    def queued_at(self) -> float:
        """When the image began to wait for the device, seconds of time.monotonic."""
        return self._queued.queued_at if self._queued is not None else time.monotonic()

    def join(self, caller: str) -> None:
        """Another call wants the image. The image moves to the line of this caller if its turn comes sooner there,
        before decoding and before the device."""
        self._calls += 1
        self._claim.join(caller)
        if self._queued is not None:
            self._device.hasten(self._queued, caller)

    def leave(self) -> None:
        """A call has received everything, or has ended early."""
        self._calls -= 1
        if not self._calls:
            self._preparing.cancel()
            self._end()

    async def prepared(self) -> None:
        """Wait until the image is cut. Cancelling this does not stop the work for the encoding's other calls.

        Raises:
            InvalidImageError: the image cannot be decoded or cut.
            OverloadedError: of `ProcessDecoder.decode`.
        """
        await asyncio.wait({self._preparing})
        self._preparing.result()

    @contextmanager
    def followed_by(self, listener: Listener) -> Iterator[None]:
        """Pass a listener the results so far, and later ones as they come."""
        for result in self._results:
            listener(result)
        if self._failure is not None:
            listener(self._failure)
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def to_queue(self) -> QueuedImage | None:
        """The prepared image as it enters the device's queue; None if it has done so, or if the encoding has ended."""
        if self._queued is not None or self._ended:
            return None
        loop = asyncio.get_running_loop()

        def deliver(result: SpanResult) -> None:
            loop.call_soon_threadsafe(self._arrive, result)

        wanted = self._wanted
        request = EncodeRequest(self.image, wanted.composition, wanted.data_type, wanted.embedded)
        self._queued = QueuedImage(request, deliver, self._claim.caller)
        return self._queued

    def _arrive(self, result: SpanResult) -> None:
        # A batch that was on the device when the encoding ended still delivers; no call waits for its tokens.
        if self._ended:
            return
        if isinstance(result, VisionSplitError):
            self._failure = result
            self._end()
        else:
            self._place.note_encoded(result.stop_tile - self._encoded_tiles)
            self._encoded_tiles = result.stop_tile
            if self._on_end is not None:
                self._results.append(result)
            if self._complete:
                self._end()
        # A copy, since a listener may end its call, which removes it from the list.
        for listener in list(self._listeners):
            listener(result)

    @property
    def _complete(self) -> bool:
        return self._encoded_tiles > 0 and self._encoded_tiles == self.grid.num_tiles

    def _end(self) -> None:
        """Release everything, even if no call reads: a slow reader must not take capacity from others."""
        if self._ended:
            return
        self._ended = True
        if self._preparing.done():
            self._place.release()
        else:
            # A thread may be decoding the image. It cannot be stopped, and its tiles take memory until it is done.
            self._preparing.add_done_callback(lambda _: self._place.release())
        if self._complete:
            # Only here: of a cancelled encoding, the device's thread may be reading the pixels.
            self.image.release_pixels()
        elif self._queued is not None:
            self._device.cancel(self._queued)
        if self._on_end is not None:
            # Without waiting for anything in between: in the moment in which no call can join this encoding any more,
            # its tokens must be in the cache, or an equal call would encode the image a second time.
            self._on_end(CachedTokens.of(self.grid, self._results) if self._complete else None)


def submit_together(encodings: Iterable[SharedEncoding], device: TileBatcher) -> None:
    """Queue the images that have not been queued yet, all at once, so that they may share a batch.

    Raises:
        UnavailableError: the device has stopped. Other calls that joined the encodings get the same error.
    """
    images = [image for encoding in encodings if (image := encoding.to_queue()) is not None]
    try:
        device.submit(images)
    except VisionSplitError as error:
        for image in images:
            image.deliver(error)
        raise


def _note_failure(preparing: asyncio.Future[PreparedImage]) -> None:
    """Retrieve the exception, so that asyncio does not warn about it: no call may be waiting any more."""
    if not preparing.cancelled():
        preparing.exception()


class CachedImage:
    """An image whose tokens were in the cache, with the interface of a finished shared encoding."""

    def __init__(self, hit: Hit) -> None:
        self.grid = hit.grid
        self.cache = hit.use
        self.preprocess_seconds = 0.0
        self.queued_at = hit.tiles.started
        self._tiles = hit.tiles

    async def prepared(self) -> None:
        """Nothing to wait for."""

    @contextmanager
    def followed_by(self, listener: Listener) -> Iterator[None]:
        """Pass a listener all tokens at once; no further results follow."""
        listener(self._tiles)
        yield

    def leave(self) -> None:
        """Nothing to release."""


ImageSource = SharedEncoding | CachedImage
