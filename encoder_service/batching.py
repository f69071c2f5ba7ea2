"""Many images, one device: a queue of tiles and the thread that owns the device."""

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass

from visionsplit.errors import InternalError, UnavailableError, VisionSplitError

from encoder_service.encoding import BatchEncoder
from encoder_service.jobs import ImageJob, SpanResult, TileSpan

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchLimits:
    """How tiles are gathered."""

    max_batch_tiles: int
    max_wait_seconds: float  # how long an incomplete batch waits for more tiles
    max_queued_tiles: int  # of all images between decoding and the device; `TileRoom` keeps to it


class TileQueue:
    """Images whose tiles wait for the device, in order of arrival. Safe to use from several threads.

    A batch takes the waiting thumbnails first, since their tokens go out first and their scores decide the budgets,
    then crops, oldest image first. Crops cannot starve: images are let in up to a bound before they come here
    (`admission.TileRoom`), and each has one thumbnail.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._changed = threading.Condition()
        self._jobs: deque[ImageJob] = deque()  # none of them complete
        self._queued_tiles = 0
        self._closed = False

    def put(self, jobs: list[ImageJob]) -> None:
        """Add images.

        Raises:
            UnavailableError: the queue is closed.
        """
        tiles = sum(job.image.grid.num_tiles for job in jobs)
        with self._changed:
            if self._closed:
                raise UnavailableError("the encoder is stopping")
            self._jobs.extend(jobs)
            self._queued_tiles += tiles
            self._changed.notify()

    def remove(self, job: ImageJob) -> None:
        """Drop what is left of an image; nothing happens if it is complete."""
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
                self._queued_tiles -= job.image.grid.num_tiles - job.next_tile

    def take(self) -> list[TileSpan]:
        """The next batch, as soon as it is full or has waited long enough; empty once the queue is closed."""
        with self._changed:
            while not self._closed:
                if not self._jobs:
                    self._changed.wait()
                    continue
                patience = self._jobs[0].queued + self._limits.max_wait_seconds - time.monotonic()
                if self._queued_tiles >= self._limits.max_batch_tiles or patience <= 0:
                    return self._next_batch()
                self._changed.wait(patience)
            return []

    def close(self) -> list[ImageJob]:
        """Refuse further images and give back those that wait."""
        with self._changed:
            self._closed = True
            left = list(self._jobs)
            self._jobs.clear()
            self._queued_tiles = 0
            self._changed.notify_all()
            return left

    def _next_batch(self) -> list[TileSpan]:
        room = self._limits.max_batch_tiles
        taken: dict[ImageJob, int] = {}  # tiles of each image
        for job in self._jobs:
            if room and job.next_tile == 0:
                taken[job] = 1
                room -= 1
        for job in self._jobs:
            if room and (job.next_tile > 0 or job in taken):
                already = taken.get(job, 0)
                more = min(job.image.grid.num_tiles - job.next_tile - already, room)
                taken[job] = already + more
                room -= more
        spans = [TileSpan(job, job.next_tile, job.next_tile + count) for job, count in taken.items()]
        for span in spans:
            span.job.next_tile = span.stop
            self._queued_tiles -= span.stop - span.first
        self._jobs = deque(job for job in self._jobs if job.next_tile < job.image.grid.num_tiles)
        return spans


class TileBatcher:
    """Feeds the device from the queue, on a thread of its own."""

    def __init__(self, encoder: BatchEncoder, limits: BatchLimits) -> None:
        self._encoder = encoder
        self._queue = TileQueue(limits)
        self._thread = threading.Thread(target=self._run, name="encoder-device", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish the batch in hand, fail what waits with UnavailableError, and end the thread."""
        for job in self._queue.close():
            job.deliver(UnavailableError("the encoder is stopping"))
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, jobs: list[ImageJob]) -> None:
        """Queue images. Raises what `TileQueue.put` raises."""
        self._queue.put(jobs)

    def cancel(self, job: ImageJob) -> None:
        """Drop the tiles that have not been encoded yet."""
        self._queue.remove(job)

    def _run(self) -> None:
        while spans := self._queue.take():
            for job, result in self._encode(spans):
                if isinstance(result, VisionSplitError):
                    self._queue.remove(job)
                job.deliver(result)

    def _encode(self, spans: list[TileSpan]) -> list[tuple[ImageJob, SpanResult]]:
        try:
            return self._encoder.encode(spans)
        except Exception:  # whatever the device throws, out of memory above all, costs this batch's images only
            _log.exception("a batch of %d tiles failed", sum(span.stop - span.first for span in spans))
            error = InternalError("the vision tower failed; the service's log has the details")
            return [(span.job, error) for span in spans]
