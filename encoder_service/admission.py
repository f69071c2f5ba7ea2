"""How many calls run at once, and when the last of them has ended."""

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
