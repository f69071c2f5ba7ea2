"""How many calls run at once, when the last of them has ended, and how many tiles they hold in memory."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from visionsplit.errors import OverloadedError, UnavailableError


class Admission:
    """Lets calls in up to a limit, and none while draining. Used from one event loop."""

    def __init__(self, max_calls: int) -> None:
        self._max_calls = max_calls
        self._active = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Hold a place for the length of a call.

        Raises:
            UnavailableError: draining.
            OverloadedError: the limit is reached.
        """
        if self._draining:
            raise UnavailableError("the encoder is draining")
        if self._active >= self._max_calls:
            raise OverloadedError(f"{self._active} calls are running, as many as this encoder takes")
        self._active += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()

    async def drain(self, grace_seconds: float | None) -> None:
        """Let no further call in, and wait for those inside; at most the grace, None waits for none."""
        self._draining = True
        if not grace_seconds:
            return
        try:
            async with asyncio.timeout(grace_seconds):
                await self._idle.wait()
        except TimeoutError:
            return


class TileRoom:
    """Lets images in up to a number of tiles. Used from one event loop."""

    def __init__(self, max_tiles: int) -> None:
        self._max_tiles = max_tiles
        self._taken = 0

    def reserve(self, tiles_of_images: list[int]) -> "list[Place]":
        """A place for each image of a request, or none for any of them.

        Raises:
            OverloadedError: with others' tiles, or even alone, they exceed the limit.
        """
        tiles = sum(tiles_of_images)
        if tiles > self._max_tiles:
            raise OverloadedError(f"the request's images make {tiles} tiles; this encoder's limit is {self._max_tiles}")
        if self._taken + tiles > self._max_tiles:
            raise OverloadedError(
                f"{self._taken} tiles are waiting; {tiles} more exceed the limit of {self._max_tiles}"
            )
        self._taken += tiles
        return [Place(self, tiles) for tiles in tiles_of_images]

    def give_back(self, tiles: int) -> None:
        self._taken -= tiles


class Place:
    """Room for one image's tiles, from before it is decoded until it is encoded."""

    def __init__(self, room: TileRoom, tiles: int) -> None:
        self._room = room
        self._tiles = tiles

    def leave(self) -> None:
        """Give the room back; nothing happens the second time."""
        self._room.give_back(self._tiles)
        self._tiles = 0
