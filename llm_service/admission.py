"""Which calls are let in, what they may hold, and when the last of them has ended."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from prometheus_client import Gauge
from visionsplit.errors import UnavailableError
from visionsplit.overload import CallPlaces

from llm_service.config import Limits
from llm_service.upload_room import UploadRoom


class Admission:
    """Lets calls in up to the limits, and none while draining. Used from one event loop."""

    def __init__(self, limits: Limits, *, max_calls: int, uploads: Gauge) -> None:
        """
        Args:
            limits: what calls may hold.
            max_calls: of which a caller gets its share; `limits` may say another number.
            uploads: told how many uploads are under way.
        """
        share = limits.caller_share
        self.places = CallPlaces(limits.max_calls or max_calls, share=share)
        self._uploads = CallPlaces(limits.max_uploads, share=share)
        self._room = UploadRoom(limits.max_upload_bytes, share)
        self._uploads_gauge = uploads
        self._inside = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The length of a call, refused ones included: their callers read a status, which takes a moment.

        Raises:
            UnavailableError: draining.
        """
        self._inside += 1
        self._idle.clear()
        try:
            if self._draining:
                raise UnavailableError("the service is stopping")
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._idle.set()

    def room(self, caller: str) -> AbstractContextManager[Callable[[int], None]]:
        """Room for a call's vision tokens; see `UploadRoom.call`."""
        return self._room.call(caller)

    @contextmanager
    def uploading(self, caller: str) -> Iterator[None]:
        """A place while the request is being received.

        Raises:
            OverloadedError: there is none.
        """
        try:
            with self._uploads.call(caller, None):
                self._uploads_gauge.set(self._uploads.active)
                yield
        finally:
            self._uploads_gauge.set(self._uploads.active)

    async def drain(self, grace: float | None) -> bool:
        """Let nobody in from now on, and wait for those inside, at most `grace` seconds; whether none is left."""
        self._draining = True
        if grace:
            try:
                async with asyncio.timeout(grace):
                    await self._idle.wait()
            except TimeoutError:
                return False
        return not self._inside
