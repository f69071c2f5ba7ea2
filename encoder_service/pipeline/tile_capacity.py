"""Limits the tiles that the encoder holds, and refuses requests that would wait too long for the device."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from visionsplit.errors import OverloadedError
from visionsplit.serving.fairness import Shares
from visionsplit.serving.overload import ServiceRate, refuse_late


class TileCapacity:
    """Admits images up to a number of tiles. Used from one event loop."""

    def __init__(
        self,
        max_tiles: int,
        *,
        caller_share: float = 1.0,
        batch_tiles: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            max_tiles: the most tiles that are accepted.
            caller_share: the part of them that one caller may have.
            batch_tiles: tiles that the device encodes at once.
            clock: the time in seconds.
        """
        self._shares = Shares(max_tiles, caller_share)
        self._waiting = Shares(max_tiles, 1.0)  # of the same tiles, those that have not been encoded
        self._rate = ServiceRate(batch_tiles, clock)
        self._batch_tiles = batch_tiles
        self._clock = clock

    def reserve(self, tiles_of_images: list[int], caller: str = "", deadline: float | None = None) -> "list[TilePlace]":
        """Reserve a place for each image of a request, or for none of them.

        Args:
            tiles_of_images: the tiles of each image.
            caller: whose request it is.
            deadline: when the caller's deadline expires, by `clock`; None without a deadline.

        Raises:
            OverloadedError: with others' tiles, with the caller's own, or even alone, they exceed the limit, or their
                turn would come too late. What exceeds the limit alone has no time after which to ask again.
        """
        tiles, shares = sum(tiles_of_images), self._shares
        if tiles > shares.limit:
            raise OverloadedError(f"the request's images make {tiles} tiles; this encoder's limit is {shares.limit}")
        if (part := shares.used_up(caller, tiles)) is not None:
            limit = "its part" if part.of else "the limit"
            raise OverloadedError(
                f"{part.held} tiles{part.of} are waiting; {tiles} more exceed {limit} of {part.limit}",
                self._rate.retry_after(part.held + tiles - part.limit),
            )
        if deadline is not None:
            refuse_late(self.seconds_to_wait(tiles, caller), deadline - self._clock())
        shares.take(caller, tiles)
        self._waiting.take(caller, tiles)
        self._rate.watch(busy=self._busy)
        return [TilePlace(self, caller, tiles, not_encoded=tiles) for tiles in tiles_of_images]

    def seconds_to_wait(self, tiles: int, caller: str) -> float:
        """The estimated time until other callers' tiles, and the caller's own earlier ones, have been encoded."""
        beyond_batch = self._waiting.ahead_of(caller, tiles) - self._batch_tiles + 1
        return self._rate.seconds_for(beyond_batch) if beyond_batch > 0 else 0.0

    @property
    def _busy(self) -> bool:
        return self._waiting.taken >= self._batch_tiles

    @property
    def taken(self) -> int:
        """The number of tiles that hold a place; callable from any thread."""
        return self._shares.taken

    def give_back(self, caller: str, tiles: int, *, not_encoded: int) -> None:
        """Release some tiles, of which `not_encoded` were cancelled before they were encoded."""
        self._shares.give_back(caller, tiles)
        self._waiting.give_back(caller, not_encoded)
        self._rate.watch(busy=self._busy)

    def note_encoded(self, caller: str, tiles: int) -> None:
        """Some tiles have been encoded; they count until `give_back`."""
        self._waiting.give_back(caller, tiles)
        self._rate.record(tiles, busy=self._busy)


@dataclass(eq=False)
class TilePlace:
    """Capacity for one image's tiles, from before decoding until the image is encoded. It has one holder."""

    capacity: TileCapacity
    caller: str
    tiles: int
    not_encoded: int

    def note_encoded(self, tiles: int) -> None:
        """Some of the image's tiles have been encoded; they count until the image is complete."""
        tiles = min(tiles, self.not_encoded)
        self.not_encoded -= tiles
        self.capacity.note_encoded(self.caller, tiles)

    def release(self) -> None:
        """Return the capacity. The holder of the place does this once."""
        self.capacity.give_back(self.caller, self.tiles, not_encoded=self.not_encoded)
