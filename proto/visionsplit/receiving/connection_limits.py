"""Limits the bytes of incomplete requests per connection, using the kernel's count of received bytes."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from visionsplit.network.transport import MIB
from visionsplit.receiving.connections import Address

# What a connection may have received in addition to the largest requests that its calls may send: bytes waiting in the
# kernel, bytes that gRPC reads ahead of calls that do not read, and bytes in transit to calls that have ended.
_SLACK_BYTES = 32 * MIB
# The most bytes besides messages: headers, a header of 9 bytes for each frame of 16 KiB, and TLS records.
_OVERHEAD_BYTES = 1024
_OVERHEAD_PART = 512


@dataclass(eq=False)
class Receipt:
    """One message that is being received, with what its connection is charged for it."""

    caller: str
    connection: "Connection"
    max_bytes: int
    received: int  # bytes that the connection had received before this message, at least
    given_up: asyncio.Future[None]
    # Bytes that the connection has received since then and that certainly belong to complete messages.
    completed: int = 0
    # Upper bound of further bytes since then that this message is not charged with: parts of messages that began
    # before it, which may have come before or after, and of messages that did not arrive.
    perhaps: int = 0

    @property
    def unfinished(self) -> int:
        """Upper bound of the incomplete bytes of this message and of messages that began after it."""
        return max(self.connection.received - self.received - self.completed, 0)


@dataclass(eq=False)
class Connection:
    """The bytes that have come from one address, which is nearly always one connection."""

    peer: str
    address: Address | None
    measured: bool = False  # whether the kernel answered the last query
    received: int = 0  # by the kernel's last answer
    completed: int = 0  # bytes of messages completed since that answer
    receipts: dict[Receipt, None] = field(default_factory=dict)  # oldest first
    _sockets: dict[int, int] = field(default_factory=dict)  # bytes received, by inode

    def note(self, sockets: Mapping[int, int]) -> None:
        """Store the kernel's answer, which is empty if the connection has not been found."""
        self.measured = bool(sockets)
        if sockets:
            self.received += sum(num_bytes - self._sockets.get(inode, 0) for inode, num_bytes in sockets.items())
            self._sockets.update(sockets)
            self.completed = 0

    def begin(self, caller: str, max_bytes: int) -> Receipt:
        # If the kernel cannot be asked now, messages completed since its last answer count as received, so that this
        # message is not charged with them later.
        received = self.received + self.completed
        receipt = Receipt(caller, self, max_bytes, received, asyncio.get_running_loop().create_future())
        self.receipts[receipt] = None
        return receipt

    def end(self, receipt: Receipt, message: bytes | None) -> None:
        """A message has arrived, or will not arrive: its bytes no longer count as incomplete."""
        num_bytes = 0 if message is None else len(message)
        overhead = num_bytes // _OVERHEAD_PART + _OVERHEAD_BYTES
        began_later = False
        for other in self.receipts:
            if other is receipt:
                began_later = True
            elif message is None:
                other.perhaps += receipt.max_bytes + overhead
            elif began_later:  # part of this message may have come before the other one began
                other.perhaps += num_bytes + overhead
            else:
                other.completed += num_bytes
                other.perhaps += overhead
        del self.receipts[receipt]
        self.completed += num_bytes

    @property
    def unfinished(self) -> int:
        return max((receipt.unfinished for receipt in self.receipts if not receipt.given_up.done()), default=0)

    def excessive(self) -> list[Receipt]:
        """Messages since whose beginning more has arrived than calls within their limits can have sent.

        A lawful message is among them if it is as old as the excessive one, because the kernel's count is per
        connection and does not distinguish them.
        """
        allowed = _SLACK_BYTES + sum(receipt.max_bytes for receipt in self.receipts)
        return [receipt for receipt in self.receipts if receipt.unfinished > allowed + receipt.perhaps]
