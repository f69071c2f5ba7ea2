"""How many calls run at once, and how many tiles they hold in memory."""

from collections.abc import Iterator
from contextlib import contextmanager

from visionsplit.errors import OverloadedError
from visionsplit.fairness import Shares
from visionsplit.overload import CallPlaces, Drain, OpenDoor


class Admission:
    """Lets calls in up to a limit, and none while draining. Used from one event loop."""

    def __init__(self, max_calls: int, *, caller_share: float = 1.0) -> None:
        self.door = OpenDoor("the encoder is draining")
        self._places = CallPlaces(max_calls, share=caller_share)

    @contextmanager
    def call(self, caller: str = "", time_remaining: float | None = None) -> Iterator[None]:
        """Hold a place for the length of a call.

        Raises:
            UnavailableError: draining.
            OverloadedError: of `CallPlaces.call`.
        """
        with self.door.inside(), self._places.call(caller, time_remaining):
            yield


class TileRoom:
    """Lets images in up to a number of tiles. Used from one event loop."""

    def __init__(self, max_tiles: int, *, caller_share: float = 1.0) -> None:
        self._shares = Shares(max_tiles, caller_share)
        self._drain = Drain()

    def reserve(self, tiles_of_images: list[int], caller: str = "") -> "list[Place]":
        """A place for each image of a request, or none for any of them.

        Raises:
            OverloadedError: with others' tiles, with the caller's own, or even alone, they exceed the limit. The last
                has no time after which to ask again.
        """
        tiles, shares = sum(tiles_of_images), self._shares
        if tiles > shares.limit:
            raise OverloadedError(f"the request's images make {tiles} tiles; this encoder's limit is {shares.limit}")
        if shares.taken + tiles > shares.limit:
            raise OverloadedError(
                f"{shares.taken} tiles are waiting; {tiles} more exceed the limit of {shares.limit}",
                self._drain.retry_after(shares.taken + tiles - shares.limit),
            )
        if not shares.fits_own(caller, tiles):
            held = shares.held_by(caller)
            raise OverloadedError(
                f"{held} tiles of this caller are waiting; {tiles} more exceed its part of {shares.own_limit}",
                self._drain.retry_after(held + tiles - shares.own_limit),
            )
        shares.take(caller, tiles)
        return [Place(self, caller, tiles) for tiles in tiles_of_images]

    @property
    def taken(self) -> int:
        """Tiles that hold a place; any thread may ask."""
        return self._shares.taken

    def give_back(self, caller: str, tiles: int) -> None:
        if tiles:
            self._drain.note(tiles, busy=self._shares.taken > tiles)
            self._shares.give_back(caller, tiles)


class Place:
    """Room for one image's tiles, from before it is decoded until it is encoded."""

    def __init__(self, room: TileRoom, caller: str, tiles: int) -> None:
        self._room = room
        self._caller = caller
        self._tiles = tiles

    def leave(self) -> None:
        """Give the room back; nothing happens the second time."""
        self._room.give_back(self._caller, self._tiles)
        self._tiles = 0
