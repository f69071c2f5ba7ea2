"""One image's way through decoding and encoding, for every call that asked for the same.

A call that asks for what is being encoded already joins the flight: it gets what has come out so far and then the rest.
The flight belongs to none of its calls. It goes on while one of them waits, and is given up when the last has left.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

import torch
from visionsplit.errors import VisionSplitError
from visionsplit.grid import TileGrid
from visionsplit.options.data_types import DataType
from visionsplit.serving.fairness import Claim

from encoder_service.admission import Place
from encoder_service.caching.tokens import CacheUse, Hit
from encoder_service.compression import Composition
from encoder_service.device.jobs import EncodedTiles, ImageJob, PreparedImage, SpanResult

Listener = Callable[[SpanResult], None]


@dataclass(frozen=True)
class TokensWanted:
    """What a request asks of its images."""

    composition: Composition
    data_type: DataType
    caller: str = ""  # callers take turns
    text: str | None = None  # that decides what is kept, where the composition reads one
    embedded: torch.Tensor | None = None  # [E] the same as the text tower says it
    deadline: float | None = None  # when the caller gives up, seconds of time.monotonic


class Flight:
    """Used from one event loop. Every `board` needs its `leave`."""

    def __init__(
        self,
        preparing: Coroutine[None, None, PreparedImage],
        place: Place,
        wanted: TokensWanted,
        claim: Claim,
        on_end: Callable[["Flight"], None],
        *,
        cached: bool,
    ) -> None:
        """
        Args:
            preparing: decodes and cuts the image.
            place: room for its tiles, which the flight gives back.
            wanted: what the first call asks for.
            claim: on a turn, of the callers that want the image.
            on_end: called once, when the last tokens are there, the encoding failed, or the last call has left.
            cached: whether what comes out is kept, for calls that join and for the cache.
        """
        self.wanted = wanted
        self.cache = CacheUse.MISS if cached else CacheUse.OFF
        self.results: list[EncodedTiles] = []  # so far; empty unless cached
        self.complete = False
        self.job: ImageJob | None = None  # once it has been made for the device
        self._claim = claim
        self._preparing = asyncio.ensure_future(preparing)
        self._preparing.add_done_callback(_note_failure)
        self._place = place
        self._on_end = on_end
        self._failure: VisionSplitError | None = None
        self._ended = False
        self._encoded_tiles = 0
        self._calls = 0
        self._listeners: list[Listener] = []

    @property
    def image(self) -> PreparedImage:
        """Once it is prepared."""
        return self._preparing.result()

    @property
    def grid(self) -> TileGrid:
        return self.image.grid

    @property
    def preprocess_seconds(self) -> float:
        return self.image.preprocess_seconds

    @property
    def queued(self) -> float:
        """When it began to wait for the device, seconds of time.monotonic."""
        return self.job.queued if self.job is not None else time.monotonic()

    def board(self, caller: str) -> "Flight":
        """Another call wants the image; it is decoded in the turn of the call's caller, if that comes sooner."""
        self._calls += 1
        self._claim.join(caller)
        return self

    def leave(self) -> None:
        """The call has what it wants, or wants it no longer."""
        self._calls -= 1
        if not self._calls:
            self._preparing.cancel()
            self._end()

    async def prepared(self) -> None:
        """Wait until the image is cut. Cancelling this leaves the work to the flight's other calls.

        Raises:
            InvalidImageError: it cannot be.
        """
        await asyncio.wait({self._preparing})
        self._preparing.result()

    def make_job(self) -> ImageJob | None:
        """The prepared image as it goes to the device; None if it has gone."""
        if self.job is not None or self._ended:
            return None
        loop = asyncio.get_running_loop()

        def deliver(result: SpanResult) -> None:
            loop.call_soon_threadsafe(self.arrive, result)

        wanted = self.wanted
        self.job = ImageJob(
            self.image, wanted.composition, wanted.data_type, deliver, self._claim.caller, wanted.embedded
        )
        return self.job

    def follow(self, listener: Listener) -> None:
        """Tell a listener what has come out, now, and what comes."""
        for result in self.results:
            listener(result)
        if self._failure is not None:
            listener(self._failure)
        self._listeners.append(listener)

    def unfollow(self, listener: Listener) -> None:
        self._listeners.remove(listener)

    def arrive(self, result: SpanResult) -> None:
        """Some tiles' tokens, or the end of it. What comes after the end is of no use to anybody."""
        if self._ended:
            return
        if isinstance(result, VisionSplitError):
            self._failure = result
            self._end()
        else:
            self._place.note_encoded(result.stop_tile - self._encoded_tiles)
            self._encoded_tiles = result.stop_tile
            if self.cache is not CacheUse.OFF:
                self.results.append(result)
            if result.stop_tile == self.grid.num_tiles:
                self.complete = True
                self._end()
        for listener in list(self._listeners):
            listener(result)

    def _end(self) -> None:
        """Give back what it held, whether or not anybody reads: a slow reader takes no room from others."""
        if self._ended:
            return
        self._ended = True
        if self._preparing.done():
            self._place.leave()
        else:  # a thread may be decoding the image, whose tiles take memory until it ends
            self._preparing.add_done_callback(lambda _: self._place.leave())
        if self.complete:
            self.image.release()
        self._on_end(self)


def _note_failure(preparing: asyncio.Future[PreparedImage]) -> None:
    """A failure that nobody waits for any more is nobody's concern; asyncio would complain."""
    if not preparing.cancelled():
        preparing.exception()


class Landed:
    """An image whose tokens were there: what a flight offers, at its end."""

    def __init__(self, hit: Hit) -> None:
        self.grid = hit.grid
        self.cache = hit.use
        self.preprocess_seconds = 0.0
        self.queued = hit.tiles.started
        self._tiles = hit.tiles

    async def prepared(self) -> None:
        """It is."""

    def follow(self, listener: Listener) -> None:
        listener(self._tiles)

    def unfollow(self, listener: Listener) -> None:
        """There is nothing to come."""

    def leave(self) -> None:
        """It holds nothing."""


ImageSource = Flight | Landed
