"""Turns among callers: whoever asks for much waits behind its own requests, not in front of everybody else's."""

import asyncio
import math
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

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


def address_behind(caller: str) -> str:
    """The address of a caller that another one calls for; any other caller itself, as its name is not invented."""
    return caller.address if isinstance(caller, RelayedCaller) else caller


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
        return self.take(caller)

    def first_of(self, eligible: Callable[[str], bool]) -> tuple[str, _T] | None:
        """The caller whose turn it is among the `eligible` ones, and what is first in its line; None if none waits."""
        return next(((caller, line[0]) for caller, line in self._lines.items() if eligible(caller)), None)

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

    def take(self, caller: str) -> _T:
        """The first of a caller, which then goes behind the others. Raises KeyError if nothing of the caller waits."""
        line = self._lines[caller]
        item = line.popleft()
        self._count -= 1
        if line:
            self._lines.move_to_end(caller)
        else:
            del self._lines[caller]
        return item

    def hasten(self, caller: str, item: _T, other: str) -> bool:
        """Put something at the end of another caller's line, if fewer are waiting there than before it in its own.

        Returns:
            Whether it was moved. Only something that waits is.
        """
        line = self._lines.get(caller, deque())
        if item not in line or len(self._lines.get(other, ())) >= line.index(item):
            return False
        self.remove(caller, item)
        self.put(other, item)
        return True

    def _line(self) -> tuple[str, deque[_T]]:
        if not self._lines:
            raise IndexError("nothing waits")
        return next(iter(self._lines.items()))


@dataclass(eq=False)
class _Turn:
    """One who waits before a gate. Compared by identity."""

    come: asyncio.Future[None]
    places: int


class Claim:
    """Work that several callers want: it waits in the line of the one whose turn comes first."""

    def __init__(self, caller: str) -> None:
        self.caller = caller  # in whose line it waits
        self._waiting: tuple[Turns[_Turn], _Turn] | None = None  # before the gate where it is now

    def join(self, caller: str) -> None:
        """Another caller wants the work."""
        if self._waiting is not None:
            turns, turn = self._waiting
            if turns.hasten(self.caller, turn, caller):
                self.caller = caller

    def queue(self, turns: Turns[_Turn], turn: _Turn) -> None:
        """Put the work into its caller's line before a gate."""
        turns.put(self.caller, turn)
        self._waiting = turns, turn

    def settle(self) -> None:
        """The work does not wait any more."""
        self._waiting = None


class FairGate:
    """Lets in a number at once; among those who wait, callers take turns. Used from one event loop.

    Someone may take several places. Whoever's turn it is waits until so many are free, and the others behind wait too,
    so that small ones do not pass a large one for ever.
    """

    def __init__(self, places: int = 1, *, own_places: int | None = None) -> None:
        """At most `places` are taken, by one caller at most `own_places` where that is given."""
        self.places = places
        self.own_places = own_places
        self.inside = 0  # places that are taken
        self._inside_of: Counter[str] = Counter()
        self._waiting: Turns[_Turn] = Turns()

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
    async def place(self, caller: str | Claim, places: int = 1) -> AsyncIterator[None]:
        """Wait for a place, or for several, and hold them. More places than the gate has are never free."""
        claim = caller if isinstance(caller, Claim) else Claim(caller)
        await self.enter(claim, places)
        caller = claim.caller  # another gate, where the work waits next, may put it into another line
        try:
            yield
        finally:
            self.leave(caller, places)

    async def enter(self, claim: Claim, places: int = 1) -> None:
        """Wait for places, which `leave` gives back for the claim's caller."""
        turn = _Turn(asyncio.get_running_loop().create_future(), places)
        claim.queue(self._waiting, turn)
        self._let_in()
        try:
            await turn.come
        except asyncio.CancelledError:
            self._waiting.remove(claim.caller, turn)
            if turn.come.cancelled():
                self._let_in()  # others may have waited behind it
            else:  # it was let in at the same moment
                self.leave(claim.caller, places)
            raise
        finally:
            claim.settle()

    def leave(self, caller: str, places: int = 1) -> None:
        """Give places back."""
        self.inside -= places
        self._inside_of[caller] -= places
        if not self._inside_of[caller]:
            del self._inside_of[caller]
        self._let_in()

    def _has_own_place(self, caller: str) -> bool:
        return self.own_places is None or self._inside_of[caller] < self.own_places

    def _let_in(self) -> None:
        while (first := self._waiting.first_of(self._has_own_place)) is not None:
            caller, turn = first
            if not turn.come.cancelled() and self.inside + turn.places > self.places:
                return
            self._waiting.take(caller)
            if not turn.come.cancelled():  # else its task is on its way out
                self.inside += turn.places
                self._inside_of[caller] += turn.places
                turn.come.set_result(None)


class UsedUp(NamedTuple):
    """A part of something that does not hold as much more as is wanted."""

    of: str  # whose part it is, as the end of a noun phrase: " of this caller", " of this address", or empty for all
    held: int
    limit: int


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

    def fits(self, caller: str, amount: int) -> bool:
        return self.used_up(caller, amount) is None

    def used_up(self, caller: str, amount: int) -> UsedUp | None:
        """Which part is too full for an amount: the whole, the caller's own, or its address's; None if it fits."""
        if self.taken + amount > self.limit:
            return UsedUp("", self.taken, self.limit)
        if not self.fits_own(caller, amount):
            return UsedUp(" of this caller", self.held_by(caller), self.own_limit)
        if not self._fits_at(caller, amount):
            return UsedUp(" of this address", self._held_at_address(caller), self.address_limit)
        return None

    def fits_own(self, caller: str, amount: int) -> bool:
        """Whether it fits the caller's own part. A caller that holds nothing may have more than that at once."""
        held = self.held_by(caller)
        return not held or held + amount <= self.own_limit

    def is_in_the_way(self, other: str, caller: str, amount: int) -> bool:
        """Whether an amount that does not fit for a caller would sooner fit if another caller held less: the same
        caller where its own part is exceeded, one of the same address where the address's part is, else any."""
        if not self.fits_own(caller, amount):
            return other == caller
        return self._fits_at(caller, amount) or address_behind(other) == address_behind(caller)

    def take(self, caller: str, amount: int) -> None:
        self.taken += amount
        _add(self._held, caller, amount)
        _add(self._held_at, address_behind(caller), amount)

    def give_back(self, caller: str, amount: int) -> None:
        self.taken -= amount
        _add(self._held, caller, -amount)
        _add(self._held_at, address_behind(caller), -amount)

    def _held_at_address(self, caller: str) -> int:
        """What all callers of this one's address hold."""
        return self._held_at.get(address_behind(caller), 0)

    def _fits_at(self, caller: str, amount: int) -> bool:
        """Whether it fits the part of the caller's address."""
        held = self._held_at_address(caller)
        return not held or held + amount <= self.address_limit


def _add(held: dict[str, int], name: str, amount: int) -> None:
    """Change what is held; a name that holds nothing is forgotten."""
    if total := held.get(name, 0) + amount:
        held[name] = total
    else:
        held.pop(name, None)
