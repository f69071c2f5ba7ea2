"""What comes before the device: an image's header read, the image decoded and cut, a request's text embedded."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from visionsplit.fairness import FairGate
from visionsplit.grid import Layout, UnpadRule
from visionsplit.images import ImageLimits, decode_image, read_size
from visionsplit.tasks import together

from encoder_service.admission import Place
from encoder_service.caching.key import image_digest
from encoder_service.fanout import in_thread, naming
from encoder_service.jobs import PreparedImage
from encoder_service.text_tower import TextTower
from encoder_service.tiles import Tiler

_RULE = {Layout.SPATIAL: UnpadRule.HUGGING_FACE, Layout.REFERENCE: UnpadRule.REFERENCE}


@dataclass(frozen=True)
class Header:
    """What is known of an image before it is decoded."""

    most_tiles: int
    digest: str | None  # of its bytes, where tokens are cached


class Preparation:
    """Threads that prepare images. Used from one event loop."""

    def __init__(
        self, tiler: Tiler, limits: ImageLimits, *, threads: int, digests: bool, text_tower: TextTower | None
    ) -> None:
        """`digests`: whether headers come with the digest of the image's bytes."""
        self._tiler = tiler
        self._limits = limits
        self._digests = digests
        self._text_tower = text_tower
        # Headers have a thread of their own: a request that is refused must not wait for others' images.
        self._headers = ThreadPoolExecutor(1, thread_name_prefix="encoder-header")
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="encoder-image")
        self._turns = FairGate(threads)
        self._texts = ThreadPoolExecutor(1, thread_name_prefix="encoder-text")

    def close(self) -> None:
        """End the threads."""
        for pool in (self._headers, self._pool, self._texts):
            pool.shutdown(wait=True, cancel_futures=True)

    async def headers(self, images: Sequence[bytes]) -> list[Header]:
        """
        Raises:
            InvalidImageError: one of them is no image, or too large; names it by its index.
        """
        return await together([in_thread(self._headers, self._read, *image) for image in enumerate(images)])

    async def prepare(self, data: bytes, place: Place, layout: Layout, caller: str) -> PreparedImage:
        """Decode and cut an image once it is the caller's turn.

        Args:
            place: that its tiles will hold.

        Raises:
            InvalidImageError: it cannot be decoded.
        """
        async with self._turns.place(caller):
            return await in_thread(self._pool, partial(self._cut, data, place, _RULE[layout]))

    async def embed(self, text: str) -> torch.Tensor:
        """The text tower's embedding; its shape is the tower's affair."""
        assert self._text_tower is not None, "the service refuses such requests where there is none"
        return await in_thread(self._texts, self._text_tower.embed, text)

    def _read(self, index: int, data: bytes) -> Header:
        with naming(index):
            tiles = self._tiler.most_tiles(*read_size(data, self._limits))
        return Header(tiles, image_digest(data) if self._digests else None)

    def _cut(self, data: bytes, place: Place, rule: UnpadRule) -> PreparedImage:
        started = time.monotonic()
        tiles = self._tiler.cut(decode_image(data, self._limits), rule)
        return PreparedImage(tiles.pixels, tiles.grid, time.monotonic() - started, place)
