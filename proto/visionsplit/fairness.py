"""Turns among callers: whoever asks for much waits behind its own requests, not in front of everybody else's."""

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

_T = TypeVar("_T")


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
        caller, line = self._line()
        item = line.popleft()
        self._count -= 1
        if line:
            self._lines.move_to_end(caller)
        else:
            del self._lines[caller]
        return item

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

    async def wait(self, turns: Turns[_Turn], turn: _Turn) -> None:
        """Wait among others until the turn has come. Raises CancelledError, having left the line."""
        turns.put(self.caller, turn)
        self._waiting = turns, turn
        try:
            await turn.come
        except asyncio.CancelledError:
            turns.remove(self.caller, turn)
            raise
        finally:
            self._waiting = None


class FairGate:
    """Lets in a number at once; among those who wait, callers take turns. Used from one event loop.

    Someone may take several places. Whoever's turn it is waits until so many are free, and the others behind wait too,
    so that small ones do not pass a large one for ever.
    """

    def __init__(self, places: int = 1) -> None:
        self._places = places
        self._inside = 0
        self._waiting: Turns[_Turn] = Turns()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def resize(self, places: int) -> None:
        """Change how many may be inside; those beyond a smaller number may end."""
        self._places = places
        self._let_in()

    @asynccontextmanager
    async def place(self, caller: str | Claim, places: int = 1) -> AsyncIterator[None]:
        """Wait for a place, or for several, and hold them. More places than the gate has are never free."""
        await self._enter(caller if isinstance(caller, Claim) else Claim(caller), places)
        try:
            yield
        finally:
            self._inside -= places
            self._let_in()

    async def _enter(self, claim: Claim, places: int) -> None:
        if not self._waiting and self._inside + places <= self._places:
            self._inside += places
            return
        turn = _Turn(asyncio.get_running_loop().create_future(), places)
        try:
            await claim.wait(self._waiting, turn)
        except asyncio.CancelledError:
            if not turn.come.cancelled():  # it was let in at the same moment
                self._inside -= places
            self._let_in()  # others may have waited behind it
            raise

    def _let_in(self) -> None:
        while self._waiting and (
            self._waiting.first().come.cancelled() or self._inside + self._waiting.first().places <= self._places
        ):
            turn = self._waiting.pop()
            if not turn.come.cancelled():  # else its task is on its way out
                self._inside += turn.places
                turn.come.set_result(None)


class Shares:
    """How much of something each caller holds, and how much it may: a part always stays free for the others."""

    def __init__(self, limit: int, share: float) -> None:
        """`share` is the part of the limit that one caller may hold, in (0, 1]; it is rounded up."""
        self.limit = limit
        self.own_limit = math.ceil(limit * share)
        self.taken = 0
        self._held: dict[str, int] = {}

    def held_by(self, caller: str) -> int:
        return self._held.get(caller, 0)

    def fits(self, caller: str, amount: int) -> bool:
        return self.taken + amount <= self.limit and self.fits_own(caller, amount)

    def fits_own(self, caller: str, amount: int) -> bool:
        """Whether it fits the caller's own part. A caller that holds nothing may have more than that at once."""
        held = self.held_by(caller)
        return not held or held + amount <= self.own_limit

    def take(self, caller: str, amount: int) -> None:
        self.taken += amount
        self._held[caller] = self.held_by(caller) + amount

    def give_back(self, caller: str, amount: int) -> None:
        self.taken -= amount
        left = self._held.get(caller, 0) - amount
        if left:
            self._held[caller] = left
        else:
            self._held.pop(caller, None)
