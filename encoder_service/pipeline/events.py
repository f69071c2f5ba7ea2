"""What happens to a request's images, in the order in which it happens."""

import time
from dataclasses import dataclass

from visionsplit.grid import TileGrid
from visionsplit.wire.tensors import TokenTensor
from visionsplit.wire.vision_tokens import Positions

from encoder_service.caching.tokens import CacheUse
from encoder_service.device.jobs import EncodedTiles
from encoder_service.pipeline.shared_encoding import ImageSource


@dataclass(frozen=True)
class BudgetsKnown:
    """Comes first for each image: how many tokens each tile will keep."""

    image_index: int
    grid: TileGrid
    budgets: list[int]
    quotas: list[int] | None = None  # tokens of each tile that the language model's pruning is to keep


@dataclass(frozen=True)
class TokensReady:
    """Some tiles' kept tokens, at least one."""

    image_index: int
    features: TokenTensor  # [K, Dv]
    positions: Positions  # [K, 3]


@dataclass(frozen=True)
class ImageDone:
    """Comes last for each image."""

    image_index: int
    grid: TileGrid
    budgets: list[int]
    wire_bytes: int  # features, scales and positions
    preprocess_seconds: float
    queue_seconds: float
    encode_seconds: float
    first_chunk_seconds: float
    total_seconds: float
    device_seconds: float = 0.0  # from the call's start until its first tile entered the vision tower
    cache: CacheUse = CacheUse.OFF


Event = BudgetsKnown | TokensReady | ImageDone


class ImageProgress:
    """Turns what arrives of one image into events."""

    def __init__(self, index: int, source: ImageSource, call_start: float) -> None:
        """`call_start` is when the call began, seconds of time.monotonic."""
        self._index = index
        self._source = source
        self._call_start = call_start
        self._first_tokens: float | None = None  # time.monotonic, as the next
        self._device_start: float | None = None
        self._encode_seconds = 0.0
        self._wire_bytes = 0

    def take(self, result: EncodedTiles) -> list[Event]:
        """What one batch's result means for the image."""
        now = time.monotonic()
        grid = self._source.grid
        events: list[Event] = []
        if self._device_start is None:
            self._device_start = result.started
            events.append(BudgetsKnown(self._index, grid, result.budgets, result.quotas))
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
            queue_seconds=device_start - self._source.queued,
            encode_seconds=self._encode_seconds,
            first_chunk_seconds=(self._first_tokens or now) - self._call_start,
            total_seconds=now - self._call_start,
            device_seconds=max(device_start - self._call_start, 0.0),  # it may have begun for an earlier call
            cache=self._source.cache,
        )
