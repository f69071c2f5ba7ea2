"""Fairness among callers: callers take turns, so a caller with much work waits behind itself and delays no other."""

import asyncio
import math
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

_T = TypeVar("_T")


def ahead_in_turns(waiting: Mapping[str, int], caller: str, amount: int) -> int:
    """The amount that is served before a caller's new work is finished, without that work, if callers take turns.

    Args:
        waiting: the amount of waiting work of each caller.
        caller: the caller that adds `amount`.
    """
    own = waiting.get(caller, 0)
    others = (held for other, held in waiting.items() if other != caller)
    return own + sum(min(held, own + amount) for held in others)


class RelayedCaller(str):
    """A caller whose name is only claimed by an address that calls on behalf of others.

    The same name from another address is another caller, and all callers of an address together have a share as well.
    """

    __slots__ = ("address",)
    address: str

    def __new__(cls, name: str, address: str) -> "RelayedCaller":
        caller = super().__new__(cls, f"{address} {name}")
        caller.address = address
        return caller


def address_behind(caller: str) -> str:
    """The address behind a relayed caller, or any other caller itself, whose name has been verified."""
    return caller.address if isinstance(caller, RelayedCaller) else caller


class FairQueue(Generic[_T]):
    """Waiting items by caller. Callers take turns; the items of each caller keep their order. Not thread-safe."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[_T]] = (
            OrderedDict()
        )  # none is empty; the caller whose turn is next comes first
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[_T]:
        for queue in self._queues.values():
            yield from queue

    def put(self, caller: str, item: _T) -> None:
        self._queues.setdefault(caller, deque()).append(item)
        self._count += 1

    def first(self) -> _T:
        """The item that `pop` would return. Raises IndexError if nothing waits."""
        return self._next_queue()[1][0]

    def pop(self) -> _T:
        """Remove the first item of the caller whose turn it is, which then goes last. Raises IndexError if empty."""
        caller, _ = self._next_queue()
        return self.take(caller)

    def first_of(self, eligible: Callable[[str], bool]) -> tuple[str, _T] | None:
        """The caller whose turn it is among the `eligible` ones, with its first item; None if none of them waits."""
        return next(((caller, queue[0]) for caller, queue in self._queues.items() if eligible(caller)), None)

    def remove(self, caller: str, item: _T) -> bool:
        """Remove an item from a caller's queue; return whether it was there."""
        queue = self._queues.get(caller)
        if queue is None or item not in queue:
            return False
        queue.remove(item)
        self._count -= 1
        if not queue:
            del self._queues[caller]
        return True

    def ahead_of(self, caller: str) -> int:
        """The number of items that would be taken before an item that this caller added now."""
        return ahead_in_turns({name: len(queue) for name, queue in self._queues.items()}, caller, 1)

    def take(self, caller: str) -> _T:
        """Remove the first item of a caller, which then goes last. Raises KeyError if the caller has no item."""
        queue = self._queues[caller]
        item = queue.popleft()
        self._count -= 1
        if queue:
            self._queues.move_to_end(caller)
        else:
            del self._queues[caller]
        return item

    def move_if_sooner(self, caller: str, item: _T, other: str) -> bool:
        """Move an item to the end of another caller's queue, if fewer items wait there than before it in its own.

        Returns:
            Whether it was moved. An item that is not waiting is not.
        """
        queue = self._queues.get(caller, deque())
        if item not in queue or len(self._queues.get(other, ())) >= queue.index(item):
            return False
        self.remove(caller, item)
        self.put(other, item)
        return True

    def _next_queue(self) -> tuple[str, deque[_T]]:
        if not self._queues:
            raise IndexError("nothing waits")
        return next(iter(self._queues.items()))


@dataclass(eq=False)
class _Turn:
    """A task that waits at a gate. Compared by identity."""

    admitted: asyncio.Future[None]
    places: int


class Claim:
    """Work that several callers want: it waits in the queue of the caller whose turn comes first."""

    def __init__(self, caller: str) -> None:
        self.caller = caller  # the caller in whose queue the work waits
        self._waiting: tuple[FairQueue[_Turn], _Turn] | None = None  # at the gate where it waits now

    def join(self, caller: str) -> None:
        """Add another caller that wants the work."""
        if self._waiting is not None:
            turns, turn = self._waiting
            if turns.move_if_sooner(self.caller, turn, caller):
                self.caller = caller

    def queue(self, turns: FairQueue[_Turn], turn: _Turn) -> None:
        """Add the work to its caller's queue at a gate."""
        turns.put(self.caller, turn)
        self._waiting = turns, turn

    def settle(self) -> None:
        """Record that the work no longer waits."""
        self._waiting = None


class FairGate:
    """Admits a limited number of tasks at once; waiting callers take turns. Used from one event loop.

    A task may take several places. The task whose turn it is waits until enough places are free, and all others wait
    behind it, so that tasks with few places cannot pass one with many forever.
    """

    def __init__(self, places: int = 1, *, own_places: int | None = None) -> None:
        """Limit the places taken to `places`, and those of one caller to `own_places` if that is given."""
        self.places = places
        self.own_places = own_places
        self.inside = 0  # places taken
        self._inside_of: Counter[str] = Counter()
        self._waiting: FairQueue[_Turn] = FairQueue()

    def __len__(self) -> int:
        """The number of waiting tasks."""
        return len(self._waiting)

    def has_place(self, caller: str) -> bool:
        """Whether a task of this caller would be admitted at once."""
        return self.inside < self.places and self._has_own_place(caller)

    def ahead_of(self, caller: str) -> int:
        """The number of waiting tasks that would be admitted before a new one of this caller."""
        return self._waiting.ahead_of(caller)

    def resize(self, places: int, *, own_places: int | None = None) -> None:
        """Change the limits; tasks inside beyond a smaller limit may finish."""
        self.places, self.own_places = places, own_places
        self._admit()

    @asynccontextmanager
    async def place(self, caller: str | Claim, places: int = 1) -> AsyncIterator[None]:
        """Wait for a place, or for several, and hold them. A request for more places than the gate has never ends."""
        claim = caller if isinstance(caller, Claim) else Claim(caller)
        await self.enter(claim, places)
        caller = claim.caller  # kept, because another gate may move the work to another caller's queue later
        try:
            yield
        finally:
            self.leave(caller, places)

    async def enter(self, claim: Claim, places: int = 1) -> None:
        """Wait for places; return them with `leave` for the claim's caller."""
        turn = _Turn(asyncio.get_running_loop().create_future(), places)
        claim.queue(self._waiting, turn)
        self._admit()
        try:
            await turn.admitted
        except asyncio.CancelledError:
            self._waiting.remove(claim.caller, turn)
            if turn.admitted.cancelled():
                self._admit()  # others may have been waiting behind this task
            else:  # admitted at the same moment as cancelled: the places are taken and must be returned
                self.leave(claim.caller, places)
            raise
        finally:
            claim.settle()

    def leave(self, caller: str, places: int = 1) -> None:
        """Return places."""
        self.inside -= places
        self._inside_of[caller] -= places
        if not self._inside_of[caller]:
            del self._inside_of[caller]
        self._admit()

    def _has_own_place(self, caller: str) -> bool:
        return self.own_places is None or self._inside_of[caller] < self.own_places

    def _admit(self) -> None:
        while (first := self._waiting.first_of(self._has_own_place)) is not None:
            caller, turn = first
            if not turn.admitted.cancelled() and self.inside + turn.places > self.places:
                return
            self._waiting.take(caller)
            if not turn.admitted.cancelled():  # a cancelled task is about to leave and takes no places
                self.inside += turn.places
                self._inside_of[caller] += turn.places
                turn.admitted.set_result(None)


class UsedUp(NamedTuple):
    """A part of a limited resource that does not have the wanted amount left."""

    of: str  # whose part, as the end of a noun phrase: " of this caller", " of this address", or empty for the whole
    held: int
    limit: int


class Shares:
    """How much of a resource each caller holds, with a limit per caller, so that a part stays free for the others.

    Where callers' names are not verified, an address could invent any number of them, so an address has a limit too. It
    is larger than a caller's, as most addresses with several callers are honest relays.
    """

    def __init__(self, limit: int, share: float) -> None:
        """`share` is the part of the limit that one caller may hold, in (0, 1], rounded up. An address leaves half as
        much to others as a caller does."""
        self.limit = limit
        self.own_limit = math.ceil(limit * share)
        self.address_limit = math.ceil(limit * (1 + share) / 2)
        self.taken = 0
        self._held: dict[str, int] = {}
        self._held_at: dict[str, int] = {}  # by address, for relayed callers and for the address as a caller

    def held_by(self, caller: str) -> int:
        return self._held.get(caller, 0)

    def ahead_of(self, caller: str, amount: int) -> int:
        """How much of the held amount is served before the last of `amount` more for this caller, by turns."""
        return ahead_in_turns(self._held, caller, amount)

    def fits(self, caller: str, amount: int) -> bool:
        return self.used_up(caller, amount) is None

    def used_up(self, caller: str, amount: int) -> UsedUp | None:
        """The part without room for an amount: the whole, the caller's, or its address's; None if it fits."""
        if self.taken + amount > self.limit:
            return UsedUp("", self.taken, self.limit)
        if not self.fits_own(caller, amount):
            return UsedUp(" of this caller", self.held_by(caller), self.own_limit)
        if not self._fits_at(caller, amount):
            return UsedUp(" of this address", self._held_at_address(caller), self.address_limit)
        return None

    def fits_own(self, caller: str, amount: int) -> bool:
        """Whether an amount fits the caller's limit. A caller that holds nothing may exceed it with one request."""
        held = self.held_by(caller)
        return not held or held + amount <= self.own_limit

    def is_in_the_way(self, other: str, caller: str, amount: int) -> bool:
        """Whether an amount that does not fit for a caller would be closer to fitting if another caller held less.

        That holds for the same caller if its own limit is exceeded, for callers of the same address if the address's
        limit is, and otherwise for any caller.
        """
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
        """The amount held by all callers of this caller's address."""
        return self._held_at.get(address_behind(caller), 0)

    def _fits_at(self, caller: str, amount: int) -> bool:
        """Whether an amount fits the limit of the caller's address."""
        held = self._held_at_address(caller)
        return not held or held + amount <= self.address_limit


def _add(held: dict[str, int], name: str, amount: int) -> None:
    """Change the held amount; a name that holds nothing is removed."""
    if total := held.get(name, 0) + amount:
        held[name] = total
    else:
        held.pop(name, None)
