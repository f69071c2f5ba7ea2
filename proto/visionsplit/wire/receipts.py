"""Requests that are being received: how many there are, how many bytes of them have come, and which are given up."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from visionsplit.errors import DeadlineError, OverloadedError
from visionsplit.wire.by_caller import ByCaller
from visionsplit.wire.connections import Address, Connections, address_of
from visionsplit.wire.transport import MIB

_log = logging.getLogger(__name__)

MAX_UNFINISHED_BYTES = 512 * MIB  # of all requests together that have not arrived completely
_MAX_RECEIPTS = 1024  # of each kind of method; one that waits takes about 20 KiB
# What a connection may have received beyond the largest requests that its calls may send: what waits in the kernel,
# what gRPC reads ahead of calls that do not read, and what is still on its way to calls that have ended.
_SLACK_BYTES = 32 * MIB
_CHECK_SECONDS = 0.05
# Bytes that are not part of a message: headers, frames of 16 KiB with 9 bytes before each, and TLS records.
_OVERHEAD_BYTES = 256
_OVERHEAD_PART = 512
_RETRY_SECONDS = 1.0


@dataclass(eq=False)
class _Receipt:
    """One message that is being received."""

    caller: str
    connection: "_Connection"
    max_bytes: int
    received: int  # by its connection before this message, at least
    given_up: asyncio.Future[None]
    # Bytes that the connection has received since then and that surely are not of unfinished messages.
    completed: int = 0
    # How many more there may be that are not, or that came before: of messages that began earlier, or did not arrive.
    perhaps: int = 0

    @property
    def unfinished(self) -> int:
        """Bytes of this message and of those that began later, at most, of what has not arrived completely."""
        return max(self.connection.received - self.received - self.completed, 0)


@dataclass(eq=False)
class _Connection:
    """What has come from one address, in bytes. Nearly always that is one connection."""

    peer: str
    address: Address | None
    measured: bool = False  # whether the kernel told when it was asked last
    received: int = 0  # by the kernel's last answer
    completed: int = 0  # of messages that arrived completely since that answer
    receipts: dict[_Receipt, None] = field(default_factory=dict)  # the oldest first
    _sockets: dict[int, int] = field(default_factory=dict)  # bytes received, by inode

    def note(self, sockets: Mapping[int, int]) -> None:
        """Take the kernel's answer; it is empty if the connection has not been found."""
        self.measured = bool(sockets)
        if sockets:
            self.received += sum(num_bytes - self._sockets.get(inode, 0) for inode, num_bytes in sockets.items())
            self._sockets.update(sockets)
            self.completed = 0

    def begin(self, caller: str, max_bytes: int) -> _Receipt:
        # Where the kernel could not be asked now, messages since its last answer count as received, so that this one
        # is not charged with them later.
        received = self.received + self.completed
        receipt = _Receipt(caller, self, max_bytes, received, asyncio.get_running_loop().create_future())
        self.receipts[receipt] = None
        return receipt

    def end(self, receipt: _Receipt, message: bytes | None) -> None:
        """A message has arrived, or will not arrive: what it has brought is not unfinished any more."""
        num_bytes = 0 if message is None else len(message)
        overhead = num_bytes // _OVERHEAD_PART + _OVERHEAD_BYTES
        began_later = False
        for other in self.receipts:
            if other is receipt:
                began_later = True
            elif message is None:
                other.perhaps += receipt.max_bytes + overhead
            elif began_later:  # part of this message came before the other one began
                other.perhaps += num_bytes + overhead
            else:
                other.completed += num_bytes
                other.perhaps += overhead
        del self.receipts[receipt]
        self.completed += num_bytes

    @property
    def unfinished(self) -> int:
        return max((receipt.unfinished for receipt in self.receipts if not receipt.given_up.done()), default=0)

    def excessive(self) -> list[_Receipt]:
        """Messages since whose beginning more has come than calls that keep to their limits can have sent. An innocent
        one is among them if it is as old as the guilty one: nothing tells them apart."""
        allowed = _SLACK_BYTES + sum(receipt.max_bytes for receipt in self.receipts)
        return [receipt for receipt in self.receipts if receipt.unfinished > allowed + receipt.perhaps]


class Receipts:
    """Receives messages and gives up those that would take the room of others. Used from one event loop.

    gRPC stores a message until it is complete, whatever its size: its limit on messages is compared afterwards, and it
    does not tell how much has come. The kernel tells it for each connection.
    """

    def __init__(self, *, max_unfinished_bytes: int) -> None:
        self._max_unfinished = max_unfinished_bytes
        self._sockets = Connections()
        self._connections: dict[str, _Connection] = {}  # by gRPC's name for the other end
        self._small: ByCaller[_Receipt] = ByCaller()
        self._large: ByCaller[_Receipt] = ByCaller()
        self._reads: set[asyncio.Task[bytes | None]] = set()
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
        receipt, message = self._begin(caller, peer, max_bytes, small=small), None
        read = self._read(messages)
        try:
            ends: set[asyncio.Future[Any]] = {read, receipt.given_up}
            await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if read.done():
                message = read.result()
        finally:
            self._end(receipt, message)
        if not read.done():
            if receipt.given_up.done():
                raise OverloadedError(
                    "the request did not arrive before others needed the memory that unfinished requests may take",
                    _RETRY_SECONDS,
                )
            raise DeadlineError(f"the request did not arrive completely within {seconds:g} seconds")
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

    def _read(self, messages: AsyncIterator[bytes]) -> "asyncio.Task[bytes | None]":
        """Read a message in a task that goes on until the message or the call's end has come.

        gRPC does not free a message that becomes complete in the moment in which its read is cancelled.
        """
        read = asyncio.create_task(_next(messages))
        self._reads.add(read)
        read.add_done_callback(self._note_read)
        return read

    def _note_read(self, read: "asyncio.Task[bytes | None]") -> None:
        self._reads.discard(read)
        if not read.cancelled():
            read.exception()  # fetched here, as the call may have ended before

    def _begin(self, caller: str, peer: str, max_bytes: int, *, small: bool) -> _Receipt:
        connection = self._connections.get(peer)
        if connection is None:
            connection = self._connections[peer] = _Connection(peer, address_of(peer))
        self._measure(connection)
        receipts = self._small if small else self._large
        if len(receipts) >= _MAX_RECEIPTS:
            # One that stands still is older than one that arrives at its pace, so a flood of the former gives up
            # itself.
            self._give_up(receipts.oldest_of_busiest())
        receipt = connection.begin(caller, max_bytes)
        receipts.add(caller, receipt)
        self._busy.set()
        return receipt

    def _end(self, receipt: _Receipt, message: bytes | None) -> None:
        connection = receipt.connection
        connection.end(receipt, message)
        self._small.remove(receipt.caller, receipt)
        self._large.remove(receipt.caller, receipt)
        # What came over a connection that has not been measured is kept until it is found, or found to have ended.
        if not connection.receipts and (connection.measured or connection.address is None):
            del self._connections[connection.peer]

    def _give_up(self, receipt: _Receipt) -> None:
        self._small.remove(receipt.caller, receipt)
        self._large.remove(receipt.caller, receipt)
        if not receipt.given_up.done():
            receipt.given_up.set_result(None)

    def _measure(self, connection: _Connection) -> None:
        if connection.address is not None:
            connection.note(self._sockets.bytes_received(connection.address))

    def _check(self) -> None:
        unknown = any(one.address is not None and not one.measured for one in self._connections.values())
        if unknown and self._sockets.look():
            # Without a message under way, one that was found needs no history, and one that was not has ended.
            self._connections = {peer: one for peer, one in self._connections.items() if one.receipts}
        receiving = [one for one in self._connections.values() if one.receipts]
        for connection in receiving:
            self._measure(connection)
            for receipt in connection.excessive():
                self._give_up(receipt)
        self._make_room(receiving)

    def _make_room(self, receiving: Iterable[_Connection]) -> None:
        """Give up messages until the others fit: those of the caller with the most bytes, of its largest connection,
        the oldest first, since only what came after the beginning of the others can be theirs."""
        left = {one: (_caller_of(one), one.unfinished) for one in receiving}
        held: Counter[str] = Counter()
        for caller, num_bytes in left.values():
            held[caller] += num_bytes
        while held.total() > self._max_unfinished:
            busiest = _most(held)
            largest = max((one for one, (caller, _) in left.items() if caller == busiest), key=lambda one: left[one][1])
            before = left[largest][1]
            for receipt in largest.receipts:
                if 2 * receipt.unfinished > before:
                    self._give_up(receipt)
            after = largest.unfinished
            held[busiest] -= before - after
            left[largest] = busiest, after


async def _next(messages: AsyncIterator[bytes]) -> bytes | None:
    return await anext(messages, None)


def _caller_of(connection: _Connection) -> str:
    """Whose messages a connection brings; nearly always all are of one caller."""
    return _most(Counter(receipt.caller for receipt in connection.receipts))


def _most(counts: "Counter[str]") -> str:
    return counts.most_common(1)[0][0]
