"""Requests that are being received: how many there are, how many bytes of them have come, and which are given up."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from visionsplit.errors import DeadlineError, OverloadedError
from visionsplit.wire.connections import Address, Connections, address_of
from visionsplit.wire.transport import MIB

_log = logging.getLogger(__name__)

MAX_UNFINISHED_BYTES = 512 * MIB  # of all requests together that have not arrived completely
_MAX_RECEIPTS = 1024  # of each kind of method; one that waits takes about 20 KiB
# What a connection may have received beyond the largest requests that its calls may send: what waits in the kernel, and
# what is still on its way to calls that have ended.
_SLACK_BYTES = 16 * MIB
_CHECK_SECONDS = 0.05
# Bytes that are not part of a message: headers, frames of 16 KiB with 9 bytes before each, and TLS records.
_OVERHEAD_BYTES = 256
_OVERHEAD_PART = 512
_RETRY_SECONDS = 1.0


@dataclass(eq=False)
class _Connection:
    """A connection and what has come over it, in bytes."""

    address: Address | None
    received: int = 0  # by the kernel's last answer
    completed: int = 0  # of messages that arrived completely
    receipts: "set[_Receipt]" = field(default_factory=set)

    @property
    def unfinished(self) -> int:
        """Of messages that have not arrived completely, at most: what came since the oldest of them began, and was not
        part of another."""
        started = ((self.received - one.received) - (self.completed - one.completed) for one in self.receipts)
        return max(started, default=0)

    @property
    def allowed(self) -> int:
        return _SLACK_BYTES + sum(receipt.max_bytes for receipt in self.receipts)


@dataclass(eq=False)
class _Receipt:
    """One message that is being received."""

    caller: str
    connection: _Connection
    max_bytes: int
    received: int  # by its connection before this message
    completed: int
    timeout: asyncio.Timeout
    given_up: bool = False


class _UnderWay:
    """Messages of one kind of method that are being received, by caller, the oldest first."""

    def __init__(self) -> None:
        self._of: dict[str, dict[_Receipt, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, receipt: _Receipt) -> None:
        self._of.setdefault(receipt.caller, {})[receipt] = None
        self._count += 1

    def remove(self, receipt: _Receipt) -> None:
        """Nothing happens the second time."""
        own = self._of.get(receipt.caller, {})
        if receipt in own:
            del own[receipt]
            self._count -= 1
        if not own:
            self._of.pop(receipt.caller, None)

    def oldest_of_busiest(self) -> _Receipt:
        """The oldest of the caller that has the most."""
        return next(iter(self._of[max(self._of, key=lambda caller: len(self._of[caller]))]))


class Receipts:
    """Receives messages and gives up those that would take the room of others. Used from one event loop.

    gRPC stores a message until it is complete, whatever its size: its limit on messages is compared afterwards, and it
    does not tell how much has come. The kernel tells it for each connection.
    """

    def __init__(self, *, max_unfinished_bytes: int) -> None:
        self._max_unfinished = max_unfinished_bytes
        self._sockets = Connections()
        self._connections: dict[str, _Connection] = {}  # by gRPC's name for the other end
        self._small, self._large = _UnderWay(), _UnderWay()
        self._busy = asyncio.Event()

    @property
    def under_way(self) -> int:
        """Messages that are being received."""
        return len(self._small) + len(self._large)

    async def receive(
        self,
        messages: AsyncIterator[bytes],
        *,
        caller: str,
        peer: str,
        max_bytes: int,
        small: bool,
        seconds: float | None,
    ) -> bytes | None:
        """The next message of a call; None once the client has closed its side.

        Args:
            messages: those of the call.
            caller: whose call it is; those with the most messages under way, or the most bytes, are given up first.
            peer: gRPC's name for the other end of the call's connection.
            max_bytes: the largest message that the method takes.
            small: the method takes small messages only, which arrive at once. They are counted by themselves, so that
                they take no places of large ones.
            seconds: within which the message must arrive; None leaves that to the caller.

        Raises:
            DeadlineError: the message did not arrive in time.
            OverloadedError: the message is too large, or it was given up for others.
        """
        timeout = asyncio.timeout(seconds)
        receipt, message = None, None
        try:
            async with timeout:
                receipt = self._begin(caller, peer, max_bytes, timeout, small=small)
                message = await anext(messages, None)
        except TimeoutError:
            if receipt is not None and receipt.given_up:
                raise OverloadedError(
                    "the request did not arrive before others needed the memory that unfinished requests may take",
                    _RETRY_SECONDS,
                ) from None
            raise DeadlineError(f"the request did not arrive completely within {seconds:g} seconds") from None
        finally:
            if receipt is not None:
                self._end(receipt, message)
        if message is not None and len(message) > max_bytes:
            raise OverloadedError(f"the request has {len(message)} bytes; this method takes at most {max_bytes}")
        return message

    async def watch(self) -> None:
        """Give up what takes too much, for as long as this runs."""
        while True:
            await self._busy.wait()
            await asyncio.sleep(_CHECK_SECONDS)
            try:
                self._check()
            except Exception:
                # Without this task, unfinished requests would have no bound from now on.
                _log.exception("unfinished requests cannot be measured")
            if not self.under_way:
                self._busy.clear()

    def _begin(self, caller: str, peer: str, max_bytes: int, timeout: asyncio.Timeout, *, small: bool) -> _Receipt:
        connection = self._connections.get(peer)
        if connection is None:
            connection = self._connections[peer] = _Connection(address_of(peer))
        self._measure(connection)
        receipt = _Receipt(caller, connection, max_bytes, connection.received, connection.completed, timeout)
        receipts = self._small if small else self._large
        if len(receipts) >= _MAX_RECEIPTS:
            # One that stands still is older than one that arrives at its pace, so a flood of the former gives up
            # itself.
            self._give_up(receipts.oldest_of_busiest())
        connection.receipts.add(receipt)
        receipts.add(receipt)
        self._busy.set()
        return receipt

    def _end(self, receipt: _Receipt, message: bytes | None) -> None:
        receipt.connection.receipts.discard(receipt)
        self._small.remove(receipt)
        self._large.remove(receipt)
        if message is not None:
            receipt.connection.completed += len(message) + len(message) // _OVERHEAD_PART + _OVERHEAD_BYTES

    def _give_up(self, *receipts: _Receipt) -> None:
        now = asyncio.get_running_loop().time()
        for receipt in receipts:
            self._small.remove(receipt)
            self._large.remove(receipt)
            if not receipt.given_up and not receipt.timeout.expired():
                receipt.given_up = True
                receipt.timeout.reschedule(now)

    def _measure(self, connection: _Connection) -> None:
        received = None if connection.address is None else self._sockets.bytes_received(connection.address)
        if received is not None:
            connection.received = received

    def _check(self) -> None:
        unknown = any(
            one.address is not None and one.address not in self._sockets for one in self._connections.values()
        )
        if unknown and self._sockets.look():
            for peer, connection in list(self._connections.items()):
                if not connection.receipts and (connection.address is None or connection.address not in self._sockets):
                    del self._connections[peer]
        receiving = [one for one in self._connections.values() if one.receipts]
        for connection in receiving:
            self._measure(connection)
            if connection.unfinished > connection.allowed:
                self._give_up(*connection.receipts)
        self._make_room(receiving)

    def _make_room(self, receiving: Iterable[_Connection]) -> None:
        """Give up connections, the largest of the caller with the most bytes first, until the others fit."""
        left = {one: one.unfinished for one in receiving if not all(receipt.given_up for receipt in one.receipts)}
        while sum(left.values()) > self._max_unfinished:
            held: Counter[str] = Counter()
            for connection, num_bytes in left.items():
                held[_caller_of(connection)] += num_bytes
            busiest = _most(held)
            largest = max((one for one in left if _caller_of(one) == busiest), key=lambda one: left[one])
            self._give_up(*largest.receipts)
            del left[largest]


def _caller_of(connection: _Connection) -> str:
    """Whose messages a connection brings; nearly always all are of one caller."""
    return _most(Counter(receipt.caller for receipt in connection.receipts))


def _most(counts: "Counter[str]") -> str:
    return counts.most_common(1)[0][0]
