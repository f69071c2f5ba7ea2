"""The connections of a fetch: they end at a time limit, and may be kept to public addresses."""

import ipaddress
import socket
import threading
import time
from contextlib import suppress
from typing import Any, Self

from urllib3.exceptions import HTTPError

from visionsplit.network.addresses import is_this_machine

_LONGEST_WAIT = 1e6  # seconds; neither sockets nor threads take any number
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
# Azure answers its virtual machines at this address of the public range with their secrets.
_CLOUD_SERVICES = frozenset({ipaddress.IPv4Address("168.63.129.16")})


class WebError(Exception):
    """What is behind a URL could not be had. The text does not repeat the URL."""


class Deadline:
    """Shuts the connections down when the time is up: a socket's own timeout starts again with every byte."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._end = None if seconds is None else time.monotonic() + min(seconds, _LONGEST_WAIT)
        self._sockets: list[object] = []
        self._timer = None if seconds is None else threading.Timer(min(seconds, _LONGEST_WAIT), self._shut_down)

    def __enter__(self) -> Self:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()

    @property
    def reason(self) -> str | None:
        """That the time is up, once it is."""
        return f"not complete after {self._seconds:g} seconds" if self.remaining() == 0 else None

    def remaining(self) -> float | None:
        """Seconds; 0 once the time is up."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def watched(self, kind: type[Any], *, private_addresses: bool) -> type[Any]:
        """A kind of urllib3's connection whose sockets are shut down when the time is up.

        Args:
            kind: the kind on which it builds.
            private_addresses: whether it connects to addresses that are not public.
        """
        deadline, sockets = self, self._sockets

        class Watched(kind):  # type: ignore[misc]
            _dns_host: str  # urllib3's: what is connected to; `host` is the name in the request

            def _new_conn(self) -> socket.socket:
                name = self._dns_host
                try:
                    # Before a proxy is asked for a tunnel and before TLS, which may take as long as they like.
                    connected = self._first_that_connects(
                        _addresses(name.strip("[]"), self.port, private_addresses=private_addresses)
                    )
                finally:
                    self._dns_host = name  # TLS checks the certificate against it
                sockets.append(connected)
                return connected

            def _first_that_connects(self, addresses: list[str]) -> socket.socket:
                for index, address in enumerate(addresses, 1):
                    # The address that was checked: looking the name up once more could give another one.
                    self._dns_host = address
                    self.timeout = deadline.remaining()  # by default each address would have the whole time
                    try:
                        connected: socket.socket = super()._new_conn()
                        return connected
                    except HTTPError:
                        if index == len(addresses) or deadline.remaining() == 0:
                            raise
                raise AssertionError("a look-up gives at least one address")

            def _tunnel(self) -> None:
                super()._tunnel()
                if deadline.remaining() == 0:  # an answer that the limit has cut off passes for a whole one
                    raise TimeoutError

            def connect(self) -> None:
                super().connect()
                # TLS has wrapped the first one, and the connection forgets the socket of a response without a length.
                sockets.append(self.sock)

        return Watched

    def _shut_down(self) -> None:
        for connected in self._sockets:
            if isinstance(connected, socket.socket):
                with suppress(OSError):  # it is closed already
                    # Not ssl's own method, which changes the object that another thread is reading from.
                    socket.socket.shutdown(connected, socket.SHUT_RDWR)


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the internet, and neither to a private network nor to this machine.

    Loopback, private, link-local, shared (RFC 6598), multicast and reserved addresses are not public. An IPv6 address
    that embeds an IPv4 address, as those of 6to4 and NAT64 do, is judged by the embedded one.
    """
    if "%" in address:  # the scope of a link-local address
        return False
    ip = _embedded(ipaddress.ip_address(address))
    if ip.is_multicast or ip.is_reserved or not ip.is_global or getattr(ip, "is_site_local", False):
        return False
    return ip not in _CLOUD_SERVICES and not is_this_machine(str(ip))


def _embedded(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip


def _addresses(host: str, port: int, *, private_addresses: bool) -> list[str]:
    """The IP addresses of a host, in the resolver's order.

    Raises:
        WebError: the name cannot be resolved, or it has no address that is allowed.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # an empty or too long part of a name
        raise WebError("its host or port is not valid") from error
    except OSError as error:
        raise WebError("the host's name cannot be resolved") from error
    addresses = [str(address[0]) for *_, address in found]
    if private_addresses:
        return addresses
    public = [address for address in addresses if is_public(address)]
    if not public:
        raise WebError("it leads to an address that is not public, which is not allowed here")
    return public
