"""Tracks the requests that are being received, measures their bytes, and drops some when they exceed the limits."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any

from visionsplit.errors import DeadlineError, OverloadedError
from visionsplit.network.transport import MIB
from visionsplit.receiving.connection_limits import Connection, Receipt
from visionsplit.receiving.connections import Connections, address_of
from visionsplit.serving.by_caller import ByCaller

_log = logging.getLogger(__name__)

MAX_UNFINISHED_BYTES = 512 * MIB  # of all incomplete requests together
_MAX_RECEIPTS = 1024  # for small and for large methods each; a waiting message takes about 20 KiB
_CHECK_SECONDS = 0.05
_RETRY_SECONDS = 1.0


class Receipts:
    """Receives messages, and drops those that would take the memory of others. Used from one event loop.

    gRPC stores a message until it is complete, whatever its size: it compares its size limit afterwards, and does not
    report how much has arrived. The kernel reports that for each connection.
    """

    def __init__(self, *, max_unfinished_bytes: int) -> None:
        self._max_unfinished = max_unfinished_bytes
        self._sockets = Connections()
        self._connections: dict[str, Connection] = {}  # by gRPC's name for the other end
        self._small: ByCaller[Receipt] = ByCaller()
        self._large: ByCaller[Receipt] = ByCaller()
        self._reads: set[asyncio.Task[bytes | None]] = set()
        self._busy = asyncio.Event()

    @property
    def under_way(self) -> int:
        """The number of messages that are being received."""
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
        """Receive the next message of a call; None once the client has closed its side.

        Args:
            messages: the call's messages.
            caller: the call's caller; callers with the most messages or bytes in progress are the first to lose one.
            peer: gRPC's name for the other end of the call's connection.
            max_bytes: the largest message that the method accepts.
            small: whether the method accepts only small messages, which arrive at once. They are counted separately, so
                that they take no places of large ones.
            seconds: the time within which the message must arrive; None sets no limit here.

        Raises:
            DeadlineError: the message did not arrive in time.
            OverloadedError: the message is too large, or was dropped in favour of others.
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
        """Drop messages that exceed the limits, until cancelled."""
        while True:
            await self._busy.wait()
            await asyncio.sleep(_CHECK_SECONDS)
            try:
                self._check()
            except Exception:
                # The task must survive: without it, incomplete requests would be unlimited from now on.
                _log.exception("unfinished requests cannot be measured")
            if not self.under_way:
                self._busy.clear()

    def _read(self, messages: AsyncIterator[bytes]) -> "asyncio.Task[bytes | None]":
        """Read a message in a task that runs until the message or the call's end has arrived.

        The read is never cancelled, since gRPC leaks a message that becomes complete while its read is being cancelled.
        """
        read = asyncio.create_task(_next(messages))
        self._reads.add(read)
        read.add_done_callback(self._note_read)
        return read

    def _note_read(self, read: "asyncio.Task[bytes | None]") -> None:
        self._reads.discard(read)
        if not read.cancelled():
            read.exception()  # retrieved here so that asyncio does not warn: the call may have ended before

    def _begin(self, caller: str, peer: str, max_bytes: int, *, small: bool) -> Receipt:
        connection = self._connections.get(peer)
        if connection is None:
            connection = self._connections[peer] = Connection(peer, address_of(peer))
        self._measure(connection)
        receipts = self._small if small else self._large
        if len(receipts) >= _MAX_RECEIPTS:
            # A message that has stopped is older than one that arrives at its normal pace, so a flood of stopped
            # messages displaces itself.
            self._give_up(receipts.oldest_of_busiest())
        receipt = connection.begin(caller, max_bytes)
        receipts.add(caller, receipt)
        self._busy.set()
        return receipt

    def _end(self, receipt: Receipt, message: bytes | None) -> None:
        connection = receipt.connection
        connection.end(receipt, message)
        self._small.remove(receipt.caller, receipt)
        self._large.remove(receipt.caller, receipt)
        # The record of a connection that has not been measured is kept until a scan has found it or found it ended.
        if not connection.receipts and (connection.measured or connection.address is None):
            del self._connections[connection.peer]

    def _give_up(self, receipt: Receipt) -> None:
        self._small.remove(receipt.caller, receipt)
        self._large.remove(receipt.caller, receipt)
        if not receipt.given_up.done():
            receipt.given_up.set_result(None)

    def _measure(self, connection: Connection) -> None:
        if connection.address is not None:
            connection.note(self._sockets.bytes_received(connection.address))

    def _check(self) -> None:
        unknown = any(one.address is not None and not one.measured for one in self._connections.values())
        if unknown and self._sockets.look():
            # After the scan, connections without a message in progress are known or ended; their history can go.
            self._connections = {peer: one for peer, one in self._connections.items() if one.receipts}
        receiving = [one for one in self._connections.values() if one.receipts]
        for connection in receiving:
            self._measure(connection)
            for receipt in connection.excessive():
                self._give_up(receipt)
        self._make_room(receiving)

    def _make_room(self, receiving: Iterable[Connection]) -> None:
        """Drop messages until the others fit the limit: those of the caller with the most bytes, on its largest
        connection, oldest first, since only bytes that came after a message's beginning can belong to it."""
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


def _caller_of(connection: Connection) -> str:
    """The caller whose messages a connection carries; nearly always there is only one."""
    return _most(Counter(receipt.caller for receipt in connection.receipts))


def _most(counts: "Counter[str]") -> str:
    return counts.most_common(1)[0][0]
