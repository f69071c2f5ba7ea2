"""Whose image is decoded next, and how much memory decoding takes at once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from visionsplit.errors import InvalidImageError
from visionsplit.fairness import Claim, FairGate
from visionsplit.images import ImageHeader


class DecodingTurns:
    """Lets images in as threads and memory allow; callers take turns. Used from one event loop.

    An image that takes little memory waits for a thread only: a quarter of the memory is enough for one on each thread.
    A large one, and one whose decoder is slow, waits for its memory first, and such images leave half of the threads
    free. So the images that most requests have never wait until large ones are decoded.
    """

    def __init__(self, threads: int, max_bytes: int) -> None:
        """`max_bytes`: the memory that decoding may take."""
        self._threads = FairGate(threads)
        self._small_bytes = max_bytes // (4 * threads)
        self._large_bytes = max_bytes - threads * self._small_bytes
        self._least_bytes = self._large_bytes // max(1, threads // 2)  # so that no more large images run at once
        self._large = FairGate(self._large_bytes)

    def check(self, header: ImageHeader) -> None:
        """
        Raises:
            InvalidImageError: decoding takes more memory than there is even for a single image.
        """
        if header.decoding_bytes > self._large_bytes:
            raise InvalidImageError(
                f"decoding an image of {header.width} x {header.height} pixels in this format takes up to "
                f"{header.decoding_bytes >> 20} MiB; this encoder has {self._large_bytes >> 20} MiB for an image"
            )

    @asynccontextmanager
    async def turn(self, header: ImageHeader, claim: Claim) -> AsyncIterator[None]:
        """Wait for the image's turn, and hold its thread and its memory. `check` has accepted it."""
        if header.decoding_bytes <= self._small_bytes and not header.apart:
            async with self._threads.place(claim):
                yield
            return
        async with (
            self._large.place(claim, max(header.decoding_bytes, self._least_bytes)),
            self._threads.place(claim),
        ):
            yield
