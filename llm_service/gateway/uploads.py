"""Limits the requests that are being received: their number, their time, and the bytes of all calls' vision tokens."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from prometheus_client import Gauge
from visionsplit.errors import DeadlineError, OverloadedError
from visionsplit.serving.fairness import Shares, UsedUp, address_behind
from visionsplit.serving.overload import ServiceRate

from llm_service.config import Limits

HEADER_SECONDS = 5.0  # a caller sends the header when it opens the call, so that only the network can delay it
# When this many calls are without a header, a further one has the oldest of the busiest address given up: silent calls
# cannot keep out later ones. `visionsplit.receiving.unfinished_requests` bounds the memory of unfinished headers.
_MAX_WITHOUT_HEADER = 256
# gRPC announces calls that are opened together before it delivers the first of their headers, so the header of a young
# call may be about to arrive. Twice the number above, more than one connection brings by default, holds for every age.
_YOUNG_SECONDS = 1.0


class Reception:
    """One call's upload, and the memory that its tokens take until the call has ended."""

    def __init__(self, uploads: "Uploads", caller: str) -> None:
        self.caller = caller
        self.begun = False  # whether the header has arrived
        self.has_place = False
        self.num_bytes = 0  # reserved for its vision tokens
        self.progressed = time.monotonic()  # when the last message arrived
        self._uploads = uploads
        self._time = asyncio.timeout(HEADER_SECONDS)
        self._given_up_for = ""

    def begin(self) -> None:
        """Record that the header has arrived: the upload takes a place.

        Raises:
            OverloadedError: all places are taken by uploads that go on, or it was given up before.
        """
        self.note_progress()
        self._uploads.take_place(self)
        self._time.reschedule(asyncio.get_running_loop().time() + self._uploads.limits.upload_seconds)

    def reserve(self, num_bytes: int) -> None:
        """Reserve memory for further bytes of vision tokens, until the call has ended.

        Raises:
            OverloadedError: they are not there, without a time after which to ask again if they never will be; or the
                upload was given up before.
        """
        self._check_not_given_up()
        self._uploads.take_room(self, num_bytes)

    def note_progress(self) -> None:
        """Record that a message has arrived.

        Raises:
            OverloadedError: after the upload was given up, in the same turn of the event loop.
        """
        self._check_not_given_up()
        self.progressed = time.monotonic()

    @property
    def ends(self) -> bool:
        """Whether it has been given up, or its time is over."""
        return bool(self._given_up_for) or self._time.expired()

    def give_up(self, reason: str) -> None:
        """Free what the upload holds now, and end it with OverloadedError when its task runs next."""
        self._given_up_for = reason
        self._uploads.release(self)
        self._time.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def receiving(self) -> AsyncIterator[None]:
        """The time from the opening of the call to the end of its upload.

        Raises:
            DeadlineError: it took too long.
            OverloadedError: it stood still, and others needed what it held.
        """
        try:
            with self._uploads.receiving(self):
                async with self._time:
                    yield
        except TimeoutError:
            if not self._time.expired():  # not this time limit, but one of the caller's
                raise
            if not self._given_up_for:
                raise DeadlineError(self._overtime) from None
        self._check_not_given_up()

    def _check_not_given_up(self) -> None:
        if self._given_up_for:
            raise OverloadedError(self._given_up_for, self._uploads.retry_after())

    @property
    def _overtime(self) -> str:
        if not self.begun:
            return f"the request's header did not arrive within {HEADER_SECONDS:g} seconds"
        return f"the upload was not complete within {self._uploads.limits.upload_seconds:g} seconds"


class Uploads:
    """All uploads in progress, and the bytes that calls hold. Used from one event loop.

    An upload that stands still costs the others nothing: where its place or its room is needed, it is given up.
    """

    def __init__(self, limits: Limits, gauge: Gauge) -> None:
        """`gauge` is set to the number of uploads that have begun and are not complete."""
        self.limits = limits
        self._places = Shares(limits.max_uploads, limits.caller_share)
        self._bytes = Shares(limits.max_upload_bytes, limits.caller_share)
        self._rate = ServiceRate()
        self._bytes_rate = ServiceRate()
        self._receiving: dict[Reception, None] = {}  # in the order in which the calls were opened
        self._gauge = gauge

    @contextmanager
    def call(self, caller: str) -> Iterator[Reception]:
        """A context for a call; its end frees the memory of the tokens."""
        reception = Reception(self, caller)
        try:
            yield reception
        finally:
            self.release(reception)

    @contextmanager
    def receiving(self, reception: Reception) -> Iterator[None]:
        """A context for an upload; its end frees the place."""
        self._bound_silent()
        self._receiving[reception] = None
        try:
            yield
            self._rate.record(1, busy=_half_taken(self._places))
        finally:
            del self._receiving[reception]
            self._leave_place(reception)

    def take_place(self, reception: Reception) -> None:
        """See `Reception.begin`."""
        reception.begun = True
        if (part := self._used_up(self._places, reception, 1)) is not None:
            text = f"{part.held} uploads{part.of} are under way, and no more are accepted"
            raise OverloadedError(text, self.retry_after())
        self._places.take(reception.caller, 1)
        reception.has_place = True
        self._gauge.set(self._places.taken)

    def take_room(self, reception: Reception, num_bytes: int) -> None:
        """See `Reception.reserve`."""
        caller, whole = reception.caller, reception.num_bytes + num_bytes
        if whole > self._bytes.limit:
            raise OverloadedError(
                f"the request's vision tokens take {whole} bytes or more; at most {self._bytes.limit} are accepted"
            )
        # The request is judged as a whole: bytes that it holds already must not count as another call's.
        self._bytes.give_back(caller, reception.num_bytes)
        part = self._used_up(self._bytes, reception, whole)
        self._bytes.take(caller, reception.num_bytes if part else whole)
        if part is not None:
            raise OverloadedError(
                f"other calls{part.of} hold {part.held} bytes of vision tokens; this request's {whole} and theirs are "
                f"more than {part.limit}",
                self._bytes_rate.retry_after(whole),
            )
        reception.num_bytes = whole

    def release(self, reception: Reception) -> None:
        """Free everything that a call holds; has no effect when called again."""
        self._leave_place(reception)
        num_bytes, reception.num_bytes = reception.num_bytes, 0
        if num_bytes:
            self._bytes.give_back(reception.caller, num_bytes)
            self._bytes_rate.record(num_bytes, busy=_half_taken(self._bytes))

    def retry_after(self) -> float:
        """Seconds after which there should be a place again."""
        return self._rate.retry_after(1)

    def _bound_silent(self) -> None:
        """Give up a call without a header if too many wait for theirs."""
        silent = [other for other in self._receiving if not (other.begun or other.ends)]
        if len(silent) < _MAX_WITHOUT_HEADER:
            return
        at_address = Counter(address_behind(other.caller) for other in silent)
        oldest = max(silent, key=lambda other: (at_address[address_behind(other.caller)], -other.progressed))
        young = time.monotonic() - oldest.progressed < _YOUNG_SECONDS
        if not young or len(silent) >= 2 * _MAX_WITHOUT_HEADER:
            oldest.give_up("the request's header had not arrived when too many other calls waited to send theirs")

    def _used_up(self, shares: Shares, reception: Reception, amount: int) -> UsedUp | None:
        """The part without room for an amount, after uploads that have stopped were given up if necessary."""
        while (part := shares.used_up(reception.caller, amount)) is not None:
            if (stalled := self._stalled(shares, reception, amount)) is None:
                break
            seconds = time.monotonic() - stalled.progressed
            stalled.give_up(f"the upload stood still for {seconds:.0f} seconds, and other calls needed its room")
        return part

    def _stalled(self, shares: Shares, reception: Reception, amount: int) -> Reception | None:
        """An upload to give up: among those in the way, one of the caller that holds the most."""
        latest = time.monotonic() - self.limits.upload_idle_seconds
        candidates = [
            other
            for other in self._receiving
            if other.progressed <= latest
            and not other.ends
            and (other.has_place if shares is self._places else other.num_bytes > 0)
            and shares.is_in_the_way(other.caller, reception.caller, amount)
            and other is not reception
        ]
        return max(candidates, key=lambda other: (shares.held_by(other.caller), -other.progressed), default=None)

    def _leave_place(self, reception: Reception) -> None:
        if reception.has_place:
            reception.has_place = False
            self._places.give_back(reception.caller, 1)
            self._gauge.set(self._places.taken)
            self._rate.watch(busy=_half_taken(self._places))


def _half_taken(shares: Shares) -> bool:
    return 2 * shares.taken > shares.limit
