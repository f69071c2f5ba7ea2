"""Which calls are let in, what they may hold, and when the last of them has ended."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from prometheus_client import Gauge
from visionsplit.overload import CallPlaces, OpenDoor

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
        self.door = OpenDoor("the service is stopping")
        self.places = CallPlaces(limits.max_calls or max_calls, share=share)
        self._uploads = CallPlaces(limits.max_uploads, share=share)
        self._room = UploadRoom(limits.max_upload_bytes, share)
        self._uploads_gauge = uploads

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
