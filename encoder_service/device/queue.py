"""Many images, one device: a queue of tiles and the thread that owns the device."""

import logging
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from visionsplit.errors import InternalError, UnavailableError, VisionSplitError

from encoder_service.config import BatchLimits
from encoder_service.device.batch_encoder import BatchEncoder
from encoder_service.device.jobs import ImageJob, SpanResult, TileSpan

_log = logging.getLogger(__name__)


@dataclass
class _Line:
    """One caller's images, in order of arrival."""

    fresh: deque[ImageJob] = field(default_factory=deque)  # whose thumbnails wait
    begun: deque[ImageJob] = field(default_factory=deque)  # of which only crops wait

    @property
    def oldest(self) -> float:
        """When the first of them came, seconds of time.monotonic."""
        return min(jobs[0].queued for jobs in (self.begun, self.fresh) if jobs)

    @property
    def tiles(self) -> int:
        """How many wait."""
        return sum(_left(job) for job in (*self.begun, *self.fresh))

    def tiles_before(self, job: ImageJob) -> int:
        """How many wait in front of an image's last one."""
        jobs = (*self.begun, *self.fresh)
        return sum(_left(one) for one in jobs[: jobs.index(job)])

    def take(self) -> ImageJob:
        """Take one tile: a thumbnail if one waits, else a crop of the oldest image. The image that it belongs to."""
        job = self.fresh.popleft() if self.fresh else self.begun[0]
        job.next_tile += 1
        complete = job.next_tile == job.image.grid.num_tiles
        if job.next_tile == 1 and not complete:
            self.begun.append(job)
        elif job.next_tile > 1 and complete:
            self.begun.popleft()
        return job


def _left(job: ImageJob) -> int:
    return job.image.grid.num_tiles - job.next_tile


class TileQueue:
    """Images whose tiles wait for the device. Safe to use from several threads.

    A batch takes a waiting thumbnail of each caller first, since their tokens go out first and their scores decide the
    budgets. What room is left the callers fill in turns, a tile each: thumbnails, then crops, oldest image first. So
    an image shares the device with one image of every other caller, however many those have waiting. Crops cannot
    starve: images are let in up to a bound before they come here (`admission.TileRoom`), and each has one thumbnail.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._changed = threading.Condition()
        self._lines: OrderedDict[str, _Line] = OrderedDict()  # none empty; whose turn it is comes first
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
            for job in jobs:
                self._lines.setdefault(job.caller, _Line()).fresh.append(job)
            self._queued_tiles += tiles
            self._changed.notify()

    @property
    def queued_tiles(self) -> int:
        """Tiles that wait."""
        return self._queued_tiles

    def remove(self, job: ImageJob) -> None:
        """Drop what is left of an image; nothing happens if it is complete."""
        with self._changed:
            line = self._lines.get(job.caller, _Line())
            for jobs in (line.fresh, line.begun):
                if job in jobs:
                    jobs.remove(job)
                    self._queued_tiles -= _left(job)
            self._drop_if_empty(job.caller)

    def hasten(self, job: ImageJob, caller: str) -> None:
        """Move an image into the line of another caller that wants it too, if it is encoded sooner there."""
        with self._changed:
            line = self._lines.get(job.caller)
            if line is None or job not in (*line.begun, *line.fresh):
                return
            other = self._lines.get(caller, _Line())
            if other is line or other.tiles >= line.tiles_before(job):
                return
            jobs = line.fresh if job in line.fresh else line.begun
            jobs.remove(job)
            self._drop_if_empty(job.caller)
            job.caller = caller
            line = self._lines.setdefault(caller, _Line())
            (line.begun if job.next_tile else line.fresh).append(job)

    def take(self) -> list[TileSpan]:
        """The next batch, as soon as it is full or has waited long enough; empty once the queue is closed."""
        with self._changed:
            while not self._closed:
                if not self._lines:
                    self._changed.wait()
                    continue
                oldest = min(line.oldest for line in self._lines.values())
                patience = oldest + self._limits.max_wait_seconds - time.monotonic()
                if self._queued_tiles >= self._limits.max_batch_tiles or patience <= 0:
                    return self._next_batch()
                self._changed.wait(patience)
            return []

    def close(self) -> list[ImageJob]:
        """Refuse further images and give back those that wait."""
        with self._changed:
            self._closed = True
            left = [job for line in self._lines.values() for job in (*line.begun, *line.fresh)]
            self._lines.clear()
            self._queued_tiles = 0
            self._changed.notify_all()
            return left

    def _next_batch(self) -> list[TileSpan]:
        first: dict[ImageJob, int] = {}  # the first tile taken of each image
        room = min(self._limits.max_batch_tiles, self._queued_tiles)
        self._queued_tiles -= room
        for caller in [caller for caller, line in self._lines.items() if line.fresh][:room]:
            self._take_tile(caller, first)
            room -= 1
        for _ in range(room):
            self._take_tile(next(iter(self._lines)), first)
        return [TileSpan(job, start, job.next_tile) for job, start in first.items()]

    def _take_tile(self, caller: str, first: dict[ImageJob, int]) -> None:
        """The caller's next tile, after which it is the others' turn."""
        job = self._lines[caller].take()
        first.setdefault(job, job.next_tile - 1)
        self._lines.move_to_end(caller)
        self._drop_if_empty(caller)

    def _drop_if_empty(self, caller: str) -> None:
        line = self._lines.get(caller)
        if line is not None and not (line.fresh or line.begun):
            del self._lines[caller]


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

    @property
    def queued_tiles(self) -> int:
        """Tiles that wait for the device; any thread may ask."""
        return self._queue.queued_tiles

    def submit(self, jobs: list[ImageJob]) -> None:
        """Queue images. Raises what `TileQueue.put` raises."""
        self._queue.put(jobs)

    def cancel(self, job: ImageJob) -> None:
        """Drop the tiles that have not been encoded yet."""
        self._queue.remove(job)

    def hasten(self, job: ImageJob, caller: str) -> None:
        """Another caller wants the image; see `TileQueue.hasten`."""
        self._queue.hasten(job, caller)

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
