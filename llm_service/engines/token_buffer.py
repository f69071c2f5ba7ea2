"""A bounded buffer between an engine and one call's reader."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from visionsplit.errors import VisionSplitError

from llm_service.job import TokenEvent

_log = logging.getLogger(__name__)
# Events beyond this number are merged into one, so that an unread token costs a few bytes instead of an object.
_MAX_EVENTS = 64


@dataclass
class _Tail:
    """Several events merged into one."""

    first: TokenEvent
    token_ids: list[int]
    finished: bool

    def event(self) -> TokenEvent:
        return replace(self.first, token_ids=tuple(self.token_ids), finished=self.finished)


class TokenBuffer:
    """A queue of one request's events, which ends with a finished event or an error. Belongs to one event loop."""

    def __init__(self) -> None:
        self._events: deque[TokenEvent] = deque()
        self._tail: _Tail | None = None  # read after the events
        self._error: VisionSplitError | None = None  # read after the tail
        self._changed = asyncio.Event()

    def put(self, event: TokenEvent | VisionSplitError) -> None:
        if isinstance(event, VisionSplitError):
            self._error = self._error or event  # the first one says why
        elif self._tail is not None:
            self._tail.token_ids += event.token_ids
            self._tail.finished = event.finished
        elif len(self._events) == _MAX_EVENTS:
            self._tail = _Tail(event, list(event.token_ids), event.finished)
        else:
            self._events.append(event)
        self._changed.set()

    async def get(self) -> TokenEvent:
        """Wait for the next event.

        Raises:
            VisionSplitError: the request failed.
        """
        while not (self._events or self._tail or self._error):
            self._changed.clear()
            await self._changed.wait()
        if self._events:
            return self._events.popleft()
        if self._tail is not None:
            tail, self._tail = self._tail, None
            return tail.event()
        assert self._error is not None
        raise self._error


async def read_ahead(fill: Callable[[TokenBuffer], Coroutine[Any, Any, None]]) -> AsyncGenerator[TokenEvent, None]:
    """Yield a buffer's events while a task fills it at the engine's pace, so that a slow reader holds no place.

    Closing the generator cancels the task and waits for its end: only then has what it held been returned.

    Args:
        fill: puts events into the buffer, up to a finished one or an error.
    """
    buffer = TokenBuffer()
    filling = asyncio.create_task(fill(buffer))
    try:
        finished = False
        while not finished:
            event = await buffer.get()
            finished = event.finished
            yield event
    finally:
        filling.cancel()
        await asyncio.wait({filling})


def post(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Run a callback on an event loop, from any thread. If the loop has closed, its requests have no reader left."""
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        _log.debug("an event loop closed before its requests ended")
