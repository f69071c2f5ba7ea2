"""What the kernel knows of this process's TCP connections: how many bytes each has received."""

import ipaddress
import os
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote

_OPEN_FILES = Path("/proc/self/fd")
_TCP_INFO_BYTES = 136
_BYTES_RECEIVED_AT = 128  # offset of tcpi_bytes_received in Linux's struct tcp_info

_PAUSE = 20  # between two looks, in times of what the first one took

Address: TypeAlias = tuple[str, int]  # IP address, without a zone, and port


def address_of(peer: str) -> Address | None:
    """The other end of a connection, from gRPC's name for it, such as `ipv4:127.0.0.1:50000`; None if it is not TCP."""
    family, _, rest = peer.partition(":")
    host, _, port = unquote(rest).rpartition(":")
    if family not in ("ipv4", "ipv6") or not port.isdecimal():
        return None
    return _normalised(host.strip("[]")), int(port)


@dataclass(frozen=True)
class _Socket:
    """A connection of this process."""

    fd: int
    peer: tuple[str | int, ...]  # as getpeername gives it

    def bytes_received(self) -> int | None:
        """Bytes received so far; None if the descriptor has become another one."""
        try:
            with _duplicate(self.fd) as duplicate:
                if duplicate.getpeername() != self.peer:
                    return None
                info = duplicate.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            return None
        received: int = struct.unpack_from("=Q", info, _BYTES_RECEIVED_AT)[0]
        return received


class Connections:
    """The TCP connections of this process by the address of their other end. Empty where the system is not Linux."""

    def __init__(self) -> None:
        self._sockets: dict[Address, _Socket] = {}
        self._look_after = 0.0

    def __contains__(self, address: Address) -> bool:
        return address in self._sockets

    def bytes_received(self, address: Address) -> int | None:
        """Bytes that a connection has received so far, those that wait in the kernel included; None if the last look
        did not find it, or it has ended."""
        found = self._sockets.get(address)
        received = None if found is None else found.bytes_received()
        if received is None:
            self._sockets.pop(address, None)
        return received

    def look(self) -> bool:
        """Find the connections that exist now, unless the last look was so short a time ago that looking would take
        more than a small part of the processor; whether it was done."""
        started = time.monotonic()
        if started < self._look_after:
            return False
        self._sockets = {}
        try:
            with os.scandir(_OPEN_FILES) as entries:
                descriptors = [int(entry.name) for entry in entries]
        except OSError:  # not Linux, or no descriptor is left to open the folder with
            descriptors = []
        for fd in descriptors:
            peer = _peer_of(fd)
            if peer is not None:
                self._sockets[_normalised(str(peer[0])), int(peer[1])] = _Socket(fd, peer)
        ended = time.monotonic()
        self._look_after = ended + _PAUSE * (ended - started)
        return True


def _duplicate(fd: int) -> socket.socket:
    """Another descriptor of a connection. gRPC may close its own at any time, after which the number can stand for
    another file; what is read from the duplicate belongs to one file.

    Raises:
        OSError: it is not a socket, it is closed, or no descriptor is left.
    """
    number = os.dup(fd)
    try:
        return socket.socket(fileno=number)
    except OSError:
        os.close(number)
        raise


def _peer_of(fd: int) -> tuple[str | int, ...] | None:
    try:
        with _duplicate(fd) as duplicate:
            peer = duplicate.getpeername()
    except OSError:  # not a socket, not connected, or closed meanwhile
        return None
    return peer if isinstance(peer, tuple) else None


def _normalised(host: str) -> str:
    """One text for each address: an IPv4 client of an IPv6 socket has two."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
