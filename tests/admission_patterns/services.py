"""Two simulated services behind the real classes of admission: calls in parallel, and batches of tiles."""

import asyncio
from abc import ABC, abstractmethod

from visionsplit.serving.fairness import FairQueue
from visionsplit.serving.overload import ServiceQueue, refuse_late

from encoder_service.pipeline.tile_capacity import TileCapacity
from tests.admission_patterns.patterns import Call, Pattern

_NO_LIMIT = 10**9


class Service(ABC):
    """Serves the calls of one pattern."""

    def __init__(self, pattern: Pattern) -> None:
        self.pattern = pattern
        self.here = 0  # calls, or tiles of calls, that wait or are served
        self._loop = asyncio.get_running_loop()

    @property
    def idle(self) -> bool:
        """Whether less is here than is served at once."""
        return self.here < self.pattern.at_once

    @abstractmethod
    async def serve(self, call: Call, remaining: float | None, *, refuses: bool) -> None:
        """Serve a call.

        Args:
            call: what to serve.
            remaining: seconds until the caller gives up.
            refuses: whether the rule is applied; without it, a call waits until its caller gives up.

        Raises:
            OverloadedError: refused.
        """

    def slowness(self) -> float:
        return self.pattern.slowness(self._loop.time())


class Parallel(Service):
    """Serves several calls at once, by turns of their callers."""

    def __init__(self, pattern: Pattern) -> None:
        super().__init__(pattern)
        self._line = ServiceQueue(pattern.at_once, clock=self._loop.time)

    async def serve(self, call: Call, remaining: float | None, *, refuses: bool) -> None:
        if refuses:
            refuse_late(self._line.seconds_to_wait(call.caller), remaining)
        self.here += 1
        try:
            async with asyncio.timeout(remaining) as patience, self._line.turn(call.caller):
                patience.reschedule(None)  # only waiting counts here
                await asyncio.sleep(call.work * self.slowness())
        finally:
            self.here -= 1


class Device(Service):
    """Encodes batches of tiles, by turns of callers, tile by tile."""

    def __init__(self, pattern: Pattern) -> None:
        super().__init__(pattern)
        self._capacity = TileCapacity(_NO_LIMIT, batch_tiles=pattern.at_once, clock=self._loop.time)
        self._queue: FairQueue[_Image] = FairQueue()
        self._works: asyncio.Task[None] | None = None

    async def serve(self, call: Call, remaining: float | None, *, refuses: bool) -> None:
        tiles = int(call.work)
        deadline = None if remaining is None or not refuses else self._loop.time() + remaining
        (place,) = self._capacity.reserve([tiles], call.caller, deadline)
        image = _Image()
        self.here += tiles
        for _ in range(tiles):
            self._queue.put(call.caller, image)
        if self._works is None or self._works.done():
            self._works = asyncio.create_task(self._work())
        try:
            async with asyncio.timeout(remaining) as patience:
                await image.begun.wait()
                patience.reschedule(None)
                for _ in range(tiles):
                    await image.encoded.acquire()
                    self.here -= 1
                    place.note_encoded(1)
        finally:
            while self._queue.remove(call.caller, image):
                self.here -= 1
            place.release()

    async def _work(self) -> None:
        while self._queue:
            batch = [self._queue.pop() for _ in range(min(len(self._queue), self.pattern.at_once))]
            for image in batch:
                image.begun.set()
            await asyncio.sleep(self.pattern.seconds * self.slowness())
            for image in batch:
                image.encoded.release()
            await asyncio.sleep(0)


class _Image:
    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.encoded = asyncio.Semaphore(0)
