"""Turns among callers: whoever asks for much waits behind its own requests, not in front of everybody else's."""

import asyncio
import math
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

_T = TypeVar("_T")


def ahead_in_turns(waiting: Mapping[str, int], caller: str, amount: int) -> int:
    """How much is served before the last of what a caller adds, if callers take turns.

    Args:
        waiting: how much of each caller waits.
        caller: who adds `amount`.
    """
    own = waiting.get(caller, 0)
    others = (held for other, held in waiting.items() if other != caller)
    return own + sum(min(held, own + amount) for held in others)


class RelayedCaller(str):
    """A caller whose name is only the word of an address that calls for others. The same name from another address is
    another caller, and all callers of an address together have a share as well."""

    __slots__ = ("address",)
    address: str

    def __new__(cls, name: str, address: str) -> "RelayedCaller":
        caller = super().__new__(cls, f"{address} {name}")
        caller.address = address
        return caller


class Turns(Generic[_T]):
    """What waits, by caller. Callers take turns; what one of them waits for keeps its order. Not thread-safe."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[_T]] = OrderedDict()  # none empty; whose turn it is comes first
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[_T]:
        for line in self._lines.values():
            yield from line

    def put(self, caller: str, item: _T) -> None:
        self._lines.setdefault(caller, deque()).append(item)
        self._count += 1

    def first(self) -> _T:
        """What `pop` would give. Raises IndexError if nothing waits."""
        return self._line()[1][0]

    def pop(self) -> _T:
        """The first of the caller whose turn it is, which then goes behind the others. Raises IndexError if empty."""
        caller, _ = self._line()
        return self._take(caller)

    def pop_of(self, eligible: Callable[[str], bool]) -> tuple[str, _T] | None:
        """The same among the callers for whom `eligible` holds, with the caller; None if nothing of theirs waits."""
        for caller in self._lines:
            if eligible(caller):
                return caller, self._take(caller)
        return None

    def remove(self, caller: str, item: _T) -> bool:
        """Take something out of its line. Whether it was there."""
        line = self._lines.get(caller)
        if line is None or item not in line:
            return False
        line.remove(item)
        self._count -= 1
        if not line:
            del self._lines[caller]
        return True

    def ahead_of(self, caller: str) -> int:
        """How many items would be taken before one that this caller added now."""
        return ahead_in_turns({name: len(line) for name, line in self._lines.items()}, caller, 1)

    def _take(self, caller: str) -> _T:
        line = self._lines[caller]
        item = line.popleft()
        self._count -= 1
        if line:
            self._lines.move_to_end(caller)
        else:
            del self._lines[caller]
        return item

    def _line(self) -> tuple[str, deque[_T]]:
        if not self._lines:
            raise IndexError("nothing waits")
        return next(iter(self._lines.items()))


class FairGate:
    """Lets in a number at once; among those who wait, callers take turns. Used from one event loop."""

    def __init__(self, places: int = 1, *, own_places: int | None = None) -> None:
        """At most `places` are inside, of one caller at most `own_places` where that is given."""
        self.places = places
        self.own_places = own_places
        self.inside = 0
        self._inside_of: Counter[str] = Counter()
        self._waiting: Turns[asyncio.Future[None]] = Turns()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def has_place(self, caller: str) -> bool:
        """Whether a call that this caller made now would be let in at once."""
        return self.inside < self.places and self._has_own_place(caller)

    def ahead_of(self, caller: str) -> int:
        """How many of those who wait would be let in before a call that this caller made now."""
        return self._waiting.ahead_of(caller)

    def resize(self, places: int, *, own_places: int | None = None) -> None:
        """Change how many may be inside; those beyond a smaller number may end."""
        self.places, self.own_places = places, own_places
        self._let_in()

    @asynccontextmanager
    async def place(self, caller: str) -> AsyncIterator[None]:
        """Wait for a place and hold it."""
        await self.enter(caller)
        try:
            yield
        finally:
            self.leave(caller)

    async def enter(self, caller: str) -> None:
        """Wait for a place, which `leave` gives back."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.put(caller, turn)
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            self._waiting.remove(caller, turn)
            if not turn.cancelled():  # it was let in at the same moment
                self.leave(caller)
            raise

    def leave(self, caller: str) -> None:
        """Give a place back."""
        self.inside -= 1
        self._inside_of[caller] -= 1
        if not self._inside_of[caller]:
            del self._inside_of[caller]
        self._let_in()

    def _has_own_place(self, caller: str) -> bool:
        return self.own_places is None or self._inside_of[caller] < self.own_places

    def _let_in(self) -> None:
        while self.inside < self.places and (first := self._waiting.pop_of(self._has_own_place)) is not None:
            caller, turn = first
            if not turn.cancelled():  # else its task is on its way out
                self.inside += 1
                self._inside_of[caller] += 1
                turn.set_result(None)


class Shares:
    """How much of something each caller holds, and how much it may: a part always stays free for the others.

    Where callers' names are not proven, an address could invent any number of them. So it has a share too, which is
    larger than a caller's, as most addresses with several callers are honest relays.
    """

    def __init__(self, limit: int, share: float) -> None:
        """`share` is the part of the limit that one caller may hold, in (0, 1]; it is rounded up. An address leaves
        half as much to others as a caller does."""
        self.limit = limit
        self.own_limit = math.ceil(limit * share)
        self.address_limit = math.ceil(limit * (1 + share) / 2)
        self.taken = 0
        self._held: dict[str, int] = {}
        self._held_at: dict[str, int] = {}  # by address, of relayed callers and of the address as a caller

    def held_by(self, caller: str) -> int:
        return self._held.get(caller, 0)

    def ahead_of(self, caller: str, amount: int) -> int:
        """How much of what is held is served before the last of `amount` more of this caller, if callers take turns."""
        return ahead_in_turns(self._held, caller, amount)

    def held_at_address(self, caller: str) -> int:
        """What all callers of this one's address hold."""
        return self._held_at.get(_address(caller), 0)

    def fits(self, caller: str, amount: int) -> bool:
        return (
            self.taken + amount <= self.limit
            and self.fits_own(caller, amount)
            and (not self.held_at_address(caller) or self.held_at_address(caller) + amount <= self.address_limit)
        )

    def fits_own(self, caller: str, amount: int) -> bool:
        """Whether it fits the caller's own part. A caller that holds nothing may have more than that at once."""
        held = self.held_by(caller)
        return not held or held + amount <= self.own_limit

    def take(self, caller: str, amount: int) -> None:
        self.taken += amount
        _add(self._held, caller, amount)
        _add(self._held_at, _address(caller), amount)

    def give_back(self, caller: str, amount: int) -> None:
        self.taken -= amount
        _add(self._held, caller, -amount)
        _add(self._held_at, _address(caller), -amount)


def _address(caller: str) -> str:
    return caller.address if isinstance(caller, RelayedCaller) else caller


def _add(held: dict[str, int], name: str, amount: int) -> None:
    """Change what is held; a name that holds nothing is forgotten."""
    if total := held.get(name, 0) + amount:
        held[name] = total
    else:
        held.pop(name, None)
