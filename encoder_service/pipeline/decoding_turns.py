"""Decides which image is decoded next, and limits the memory for decoding."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from visionsplit.errors import InvalidImageError
from visionsplit.images import ImageHeader
from visionsplit.serving.fairness import Claim, FairGate

_ORDINARY_BYTES = 512 << 20  # the most that an ordinary image takes: a JPEG of 50 million pixels with an orientation


class DecodingTurns:
    """Lets images in as threads and memory allow; callers take turns. Used from one event loop.

    Ordinary images share all threads and all memory. Large images, and those that are decoded in another process, get
    in only while they leave memory for an ordinary one, and large images leave half of the threads free. Images for
    other processes take no thread, but few of these run at once, because they may take long.
    """

    def __init__(self, threads: int, max_bytes: int) -> None:
        """`max_bytes`: the memory that decoding may take."""
        self._threads = FairGate(threads)
        self._memory = FairGate(max_bytes)
        self._ordinary_bytes = min(_ORDINARY_BYTES, max_bytes // 4)
        self._large_bytes = max_bytes - self._ordinary_bytes
        self._least_bytes = self._large_bytes // max(1, threads // 2)  # so that no more large images run at once
        self._large = FairGate(self._large_bytes)
        self.apart_places = max(1, threads // 4)  # for images that are decoded in other processes at once
        self._apart = FairGate(self.apart_places)

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
        """Wait for the image's turn, and hold its thread and its memory. `check` has accepted it.

        An image that waits for memory also delays the images behind it. To keep this wait short, the other gates come
        first: they let no image in that would have to wait for a large image or for another process.
        """
        size = header.decoding_bytes
        async with AsyncExitStack() as held:
            if header.needs_process:
                await held.enter_async_context(self._apart.place(claim))
                await held.enter_async_context(self._large.place(claim, size))
            else:
                if size > self._ordinary_bytes:
                    await held.enter_async_context(self._large.place(claim, max(size, self._least_bytes)))
                await held.enter_async_context(self._threads.place(claim))
            await held.enter_async_context(self._memory.place(claim, size))
            yield
