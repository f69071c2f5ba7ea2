"""Admission to an engine that decodes many requests together: callers take turns, within limits."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from visionsplit.errors import OverloadedError
from visionsplit.serving.fairness import Claim, FairGate
from visionsplit.serving.overload import ServiceRate

from llm_service.config import EngineConfig
from llm_service.engines.base import EngineRequest

_UNBOUNDED = 2**31
T = TypeVar("T")


@dataclass(kw_only=True)
class Place:
    """What a running request holds; engines add to it."""

    caller: str
    counted: bool = False  # whether the request counts among all running ones
    counted_of_caller: bool = False  # whether it counts among its caller's running ones


PlaceT = TypeVar("PlaceT", bound=Place)


class Admission(ABC, Generic[PlaceT]):
    """Admits requests one at a time; callers take turns, and each caller's requests keep their order.

    Requests with images have a separate queue, so that text does not wait behind an image that waits for room.
    """

    def __init__(self, config: EngineConfig) -> None:
        # One step's requests decode while as many others are ready to take their places in the next step.
        self._max_running = 2 * config.max_running
        self._max_waiting = config.max_waiting
        self._running = 0
        self._waiting = 0
        self._rate = ServiceRate()
        # This gate comes before the turns: a request that waits for others of its caller must hold no turn meanwhile.
        self._own_turn = FairGate(_UNBOUNDED, own_places=config.max_running_of_caller)
        self._text_turn = FairGate()
        self._image_turn = FairGate()
        self._released = asyncio.Event()

    @abstractmethod
    def _new_place(self, request: EngineRequest) -> PlaceT:
        """A place that holds nothing yet."""

    @abstractmethod
    async def _fill(self, request: EngineRequest, place: PlaceT) -> None:
        """Wait for the engine's own resources and put them into the place.

        What has been taken must be in the place at each point where this may be cancelled: `_empty` returns it.
        """

    @abstractmethod
    def _empty(self, place: PlaceT) -> None:
        """Return all that `_fill` has taken; called once or more."""

    async def admit(self, request: EngineRequest) -> PlaceT:
        """Wait until the request may run, and take its resources.

        Raises:
            OverloadedError: too many requests are waiting already.
        """
        if self._waiting >= self._max_waiting:
            later = self._rate.retry_after(1)
            raise OverloadedError(f"{self._waiting} requests are waiting for a replica already", later)
        self._waiting += 1
        place = self._new_place(request)
        try:
            await self._own_turn.enter(Claim(request.caller))
            place.counted_of_caller = True
            turn = self._image_turn if request.images else self._text_turn
            async with turn.place(request.caller):
                await self._when_free(lambda: True if self._running < self._max_running else None)
                self._running += 1
                place.counted = True
                await self._fill(request, place)
        except BaseException:
            self.release(place)
            raise
        finally:
            self._waiting -= 1
        return place

    def release(self, place: PlaceT) -> None:
        """Return everything a place holds. Call only when no engine step can touch its resources any more."""
        if place.counted:
            self._rate.record(1, busy=self._waiting > 0)
            self._running -= 1
        place.counted = False
        if place.counted_of_caller:
            place.counted_of_caller = False
            self._own_turn.leave(place.caller)
        self._empty(place)
        self._released.set()

    async def _when_free(self, take: Callable[[], T | None]) -> T:
        """Call `take` after each release until it returns something."""
        while (taken := take()) is None:
            self._released.clear()
            await self._released.wait()
        return taken
