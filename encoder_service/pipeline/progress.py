"""Converts the device's results for one image to the image's events."""

import time

from encoder_service.device.encoding import EncodedTiles
from encoder_service.pipeline.events import BudgetsKnown, Event, ImageDone, TokensReady
from encoder_service.pipeline.shared_encoding import ImageSource


class ImageProgress:
    """Converts the results of one image to events."""

    def __init__(self, index: int, source: ImageSource, call_start: float) -> None:
        """`call_start` is when the call began, seconds of time.monotonic."""
        self._index = index
        self._source = source
        self._call_start = call_start
        self._first_tokens: float | None = None  # seconds of time.monotonic, as the next field
        self._device_start: float | None = None
        self._encode_seconds = 0.0
        self._wire_bytes = 0

    def take(self, result: EncodedTiles) -> list[Event]:
        """The events that follow from one batch's result."""
        now = time.monotonic()
        grid = self._source.grid
        events: list[Event] = []
        if self._device_start is None:
            self._device_start = result.started
            events.append(BudgetsKnown(self._index, grid, result.budgets, result.features.columns, result.quotas))
        self._encode_seconds += result.seconds
        if result.features.rows:
            if self._first_tokens is None:
                self._first_tokens = now
            self._wire_bytes += result.features.num_bytes + result.positions.nbytes
            events.append(TokensReady(self._index, result.features, result.positions))
        if result.stop_tile == grid.num_tiles:
            events.append(self._done(result.budgets, now, self._device_start))
        return events

    def _done(self, budgets: list[int], now: float, device_start: float) -> ImageDone:
        return ImageDone(
            self._index,
            self._source.grid,
            budgets,
            self._wire_bytes,
            preprocess_seconds=self._source.preprocess_seconds,
            queue_seconds=device_start - self._source.queued_at,
            encode_seconds=self._encode_seconds,
            first_chunk_seconds=(self._first_tokens or now) - self._call_start,
            total_seconds=now - self._call_start,
            device_seconds=max(device_start - self._call_start, 0.0),  # it may have begun for an earlier call
            cache=self._source.cache,
        )
