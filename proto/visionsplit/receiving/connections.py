"""Asks the kernel how many bytes each TCP connection of this process has received."""

import ipaddress
import os
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias, TypeVar
from urllib.parse import unquote

_OPEN_FILES = Path("/proc/self/fd")
_TCP_INFO_BYTES = 136
_BYTES_RECEIVED_AT = 128  # offset of tcpi_bytes_received in Linux's struct tcp_info

_PAUSE = 20  # pause between two scans, as a multiple of the first one's duration: scanning takes at most 5% of a core

Address: TypeAlias = tuple[str, int]  # IP address, without a zone, and port
_T = TypeVar("_T")


def address_of(peer: str) -> Address | None:
    """The other end of a connection, from gRPC's name for it, such as `ipv4:127.0.0.1:50000`; None if it is not TCP, or
    if this operating system does not report received bytes."""
    family, _, rest = peer.partition(":")
    host, _, port = unquote(rest).rpartition(":")
    if sys.platform != "linux" or family not in ("ipv4", "ipv6") or not port.isdecimal():
        return None
    return _normalised(host.strip("[]")), int(port)


class Connections:
    """The TCP connections of this process by the address of their other end.

    One address can have several connections, to different addresses or ports of this process.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], Address | None] = {}  # by descriptor and inode; None if not a connection
        self._descriptors: dict[Address, dict[int, int]] = {}  # descriptors of each address's connections, by inode
        self._look_after = 0.0

    def bytes_received(self, address: Address) -> Mapping[int, int]:
        """Bytes that each connection from an address has received so far, including those waiting in the kernel, by the
        inode of its socket. Connections that ended or were opened after the last scan are missing."""
        found = self._descriptors.get(address, {})
        received = {inode: _ask(fd, inode, _bytes_received) for inode, fd in found.items()}
        return {inode: num_bytes for inode, num_bytes in received.items() if num_bytes is not None}

    def look(self) -> bool:
        """Scan for the present connections, unless the last scan was so recent that scanning again would take more than
        a small part of the processor's time; return whether the scan was made."""
        started = time.monotonic()
        if started < self._look_after:
            return False
        try:
            with os.scandir(_OPEN_FILES) as entries:
                files = [(fd, inode) for entry in entries if (inode := _inode_of(fd := int(entry.name))) is not None]
        except OSError:  # no descriptor is free for opening the folder
            return False
        self._seen = {
            (fd, inode): self._seen[fd, inode] if (fd, inode) in self._seen else _ask(fd, inode, _peer)
            for fd, inode in files
        }
        self._descriptors = {}
        for (fd, inode), address in self._seen.items():
            if address is not None:
                self._descriptors.setdefault(address, {})[inode] = fd
        ended = time.monotonic()
        self._look_after = ended + _PAUSE * (ended - started)
        return True


def _inode_of(fd: int) -> int | None:
    """The number that identifies a socket in this system; None if the descriptor is not a socket's."""
    try:
        status = os.fstat(fd)
    except OSError:  # closed in the meantime
        return None
    return status.st_ino if stat.S_ISSOCK(status.st_mode) else None


def _ask(fd: int, inode: int, question: Callable[[socket.socket], _T]) -> _T | None:
    """Query a socket that gRPC owns; None if the query fails or the socket has been closed.

    The descriptor is used directly, since none may be free for a duplicate. gRPC may close it at any time, after which
    the number can refer to another file. The answer therefore counts only if the inode is the same afterwards.
    """
    try:
        # AF_INET6 has the larger address structure; `_peer` asks for the socket's actual domain.
        borrowed = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=fd)
        try:
            answer = question(borrowed)
        finally:
            borrowed.detach()
    except OSError:
        return None
    return answer if _inode_of(fd) == inode else None


def _bytes_received(connection: socket.socket) -> int | None:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    if len(info) < _TCP_INFO_BYTES:  # an older kernel, which does not count received bytes
        return None
    received: int = struct.unpack_from("=Q", info, _BYTES_RECEIVED_AT)[0]
    return received


def _peer(connection: socket.socket) -> Address | None:
    if connection.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) not in (socket.AF_INET, socket.AF_INET6):
        return None
    host, port = connection.getpeername()[:2]
    return _normalised(host), port


def _normalised(host: str) -> str:
    """The canonical text of an address: an IPv4 client of an IPv6 socket has two."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
