"""The queue of tiles, and the thread that owns the device."""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from visionsplit.errors import InternalError, UnavailableError, VisionSplitError

from encoder_service.config import BatchLimits
from encoder_service.device.batch_encoder import BatchEncoder
from encoder_service.device.encoding import EncodeRequest, ImageEncoding, SpanResult, TileSpan

_log = logging.getLogger(__name__)


class QueuedImage:
    """An image that waits for the device, with the queue's state. Compared by identity."""

    def __init__(self, request: EncodeRequest, deliver: Callable[[SpanResult], None], caller: str = "") -> None:
        """
        Args:
            request: what is to be encoded.
            deliver: takes each result; called on the device's thread.
            caller: in whose line the image waits; callers take turns.
        """
        self.encoding = ImageEncoding(request)
        self.deliver = deliver
        self.caller = caller
        self.num_tiles = request.image.grid.num_tiles
        self.next_tile = 0  # the first tile that has not been taken from the queue
        self.queued_at = time.monotonic()

    @property
    def tiles_left(self) -> int:
        return self.num_tiles - self.next_tile


@dataclass
class _Line:
    """One caller's images, in order of arrival."""

    fresh: deque[QueuedImage] = field(default_factory=deque)  # images whose thumbnails wait
    begun: deque[QueuedImage] = field(default_factory=deque)  # images of which only crops wait

    @property
    def oldest(self) -> float:
        """When the oldest of them was queued, seconds of time.monotonic."""
        return min(images[0].queued_at for images in (self.begun, self.fresh) if images)

    @property
    def tiles(self) -> int:
        """The number of waiting tiles."""
        return sum(image.tiles_left for image in (*self.begun, *self.fresh))

    def tiles_before(self, image: QueuedImage) -> int:
        """The number of tiles that wait before an image's last one."""
        images = (*self.begun, *self.fresh)
        return sum(one.tiles_left for one in images[: images.index(image)])

    def take(self) -> QueuedImage:
        """Take one tile: a thumbnail if one waits, else a crop of the oldest image. Returns the tile's image."""
        image = self.fresh.popleft() if self.fresh else self.begun[0]
        image.next_tile += 1
        complete = not image.tiles_left
        if image.next_tile == 1 and not complete:
            self.begun.append(image)
        elif image.next_tile > 1 and complete:
            self.begun.popleft()
        return image


class TileQueue:
    """Images whose tiles wait for the device. Safe to use from several threads.

    A batch takes a waiting thumbnail of each caller first, since their tokens go out first and their scores decide the
    budgets. What room is left the callers fill in turns, a tile each: thumbnails, then crops, oldest image first. So
    an image shares the device with one image of every other caller, however many those have waiting. Crops cannot
    starve: images are let in up to a bound before they come here (`TileCapacity`), and each has one thumbnail.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._changed = threading.Condition()
        self._lines: OrderedDict[str, _Line] = OrderedDict()  # none is empty; the caller whose turn is next comes first
        self._queued_tiles = 0
        self._closed = False

    def put(self, images: list[QueuedImage]) -> None:
        """Add images.

        Raises:
            UnavailableError: the queue is closed.
        """
        tiles = sum(image.num_tiles for image in images)
        with self._changed:
            if self._closed:
                raise UnavailableError("the encoder is stopping")
            for image in images:
                self._lines.setdefault(image.caller, _Line()).fresh.append(image)
            self._queued_tiles += tiles
            self._changed.notify()

    @property
    def queued_tiles(self) -> int:
        """The number of waiting tiles."""
        return self._queued_tiles

    def remove(self, image: QueuedImage) -> None:
        """Drop the remaining tiles of an image; has no effect if it is complete."""
        with self._changed:
            line = self._lines.get(image.caller, _Line())
            for images in (line.fresh, line.begun):
                if image in images:
                    images.remove(image)
                    self._queued_tiles -= image.tiles_left
            self._drop_if_empty(image.caller)

    def hasten(self, image: QueuedImage, caller: str) -> None:
        """Move an image to the queue of another caller that wants it too, if it is encoded sooner there."""
        with self._changed:
            line = self._lines.get(image.caller)
            if line is None or image not in (*line.begun, *line.fresh):
                return
            other = self._lines.get(caller, _Line())
            if other is line or other.tiles >= line.tiles_before(image):
                return
            images = line.fresh if image in line.fresh else line.begun
            images.remove(image)
            self._drop_if_empty(image.caller)
            image.caller = caller
            line = self._lines.setdefault(caller, _Line())
            (line.begun if image.next_tile else line.fresh).append(image)

    def take(self) -> dict[QueuedImage, TileSpan]:
        """The next batch, once it is full or has waited long enough; empty once the queue is closed."""
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
            return {}

    def close(self) -> list[QueuedImage]:
        """Refuse further images and return those that wait."""
        with self._changed:
            self._closed = True
            left = [image for line in self._lines.values() for image in (*line.begun, *line.fresh)]
            self._lines.clear()
            self._queued_tiles = 0
            self._changed.notify_all()
            return left

    def _next_batch(self) -> dict[QueuedImage, TileSpan]:
        first: dict[QueuedImage, int] = {}  # the first tile taken of each image
        room = min(self._limits.max_batch_tiles, self._queued_tiles)
        self._queued_tiles -= room
        for caller in [caller for caller, line in self._lines.items() if line.fresh][:room]:
            self._take_tile(caller, first)
            room -= 1
        for _ in range(room):
            self._take_tile(next(iter(self._lines)), first)
        return {image: TileSpan(image.encoding, start, image.next_tile) for image, start in first.items()}

    def _take_tile(self, caller: str, first: dict[QueuedImage, int]) -> None:
        """Take the caller's next tile; the other callers' turns come next."""
        image = self._lines[caller].take()
        first.setdefault(image, image.next_tile - 1)
        self._lines.move_to_end(caller)
        self._drop_if_empty(caller)

    def _drop_if_empty(self, caller: str) -> None:
        line = self._lines.get(caller)
        if line is not None and not (line.fresh or line.begun):
            del self._lines[caller]


class TileBatcher:
    """Feeds the device from the queue, in a separate thread."""

    def __init__(self, encoder: BatchEncoder, limits: BatchLimits) -> None:
        self._encoder = encoder
        self._queue = TileQueue(limits)
        self._thread = threading.Thread(target=self._run, name="encoder-device", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish the present batch, fail waiting images with UnavailableError, and end the thread."""
        for image in self._queue.close():
            image.deliver(UnavailableError("the encoder is stopping"))
        if self._thread.is_alive():
            self._thread.join()

    @property
    def queued_tiles(self) -> int:
        """The number of tiles that wait for the device; callable from any thread."""
        return self._queue.queued_tiles

    def submit(self, images: list[QueuedImage]) -> None:
        """Queue images. Raises what `TileQueue.put` raises."""
        self._queue.put(images)

    def cancel(self, image: QueuedImage) -> None:
        """Drop the tiles that have not been encoded yet."""
        self._queue.remove(image)

    def hasten(self, image: QueuedImage, caller: str) -> None:
        """Add a caller that wants the image; see `TileQueue.hasten`."""
        self._queue.hasten(image, caller)

    def _run(self) -> None:
        while batch := self._queue.take():
            for image, result in zip(batch, self._encode(list(batch.values())), strict=True):
                if isinstance(result, VisionSplitError):
                    self._queue.remove(image)
                if result is not None:
                    image.deliver(result)

    def _encode(self, spans: list[TileSpan]) -> Sequence[SpanResult | None]:
        try:
            return self._encoder.encode(spans)
        except Exception:  # any device error, such as out of memory, fails only the images of this batch
            _log.exception("a batch of %d tiles failed", sum(span.stop - span.first for span in spans))
            return [InternalError("the vision tower failed; the service's log has the details")] * len(spans)
