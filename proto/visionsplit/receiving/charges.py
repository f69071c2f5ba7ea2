"""How many bytes of requests that have not arrived completely a connection may hold, by what the kernel tells of it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from visionsplit.network.transport import MIB
from visionsplit.receiving.connections import Address

# What a connection may have received beyond the largest requests that its calls may send: what waits in the kernel,
# what gRPC reads ahead of calls that do not read, and what is still on its way to calls that have ended.
_SLACK_BYTES = 32 * MIB
# Bytes that are not part of a message, at most: headers, frames of 16 KiB with 9 bytes before each, and TLS records.
_OVERHEAD_BYTES = 1024
_OVERHEAD_PART = 512


@dataclass(eq=False)
class Receipt:
    """One message that is being received."""

    caller: str
    connection: "Connection"
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
class Connection:
    """What has come from one address, in bytes. Nearly always that is one connection."""

    peer: str
    address: Address | None
    measured: bool = False  # whether the kernel told when it was asked last
    received: int = 0  # by the kernel's last answer
    completed: int = 0  # of messages that arrived completely since that answer
    receipts: dict[Receipt, None] = field(default_factory=dict)  # the oldest first
    _sockets: dict[int, int] = field(default_factory=dict)  # bytes received, by inode

    def note(self, sockets: Mapping[int, int]) -> None:
        """Take the kernel's answer; it is empty if the connection has not been found."""
        self.measured = bool(sockets)
        if sockets:
            self.received += sum(num_bytes - self._sockets.get(inode, 0) for inode, num_bytes in sockets.items())
            self._sockets.update(sockets)
            self.completed = 0

    def begin(self, caller: str, max_bytes: int) -> Receipt:
        # Where the kernel could not be asked now, messages since its last answer count as received, so that this one
        # is not charged with them later.
        received = self.received + self.completed
        receipt = Receipt(caller, self, max_bytes, received, asyncio.get_running_loop().create_future())
        self.receipts[receipt] = None
        return receipt

    def end(self, receipt: Receipt, message: bytes | None) -> None:
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

    def excessive(self) -> list[Receipt]:
        """Messages since whose beginning more has come than calls that keep to their limits can have sent. An innocent
        one is among them if it is as old as the guilty one: nothing tells them apart."""
        allowed = _SLACK_BYTES + sum(receipt.max_bytes for receipt in self.receipts)
        return [receipt for receipt in self.receipts if receipt.unfinished > allowed + receipt.perhaps]
