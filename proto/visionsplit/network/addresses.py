"""Checks addresses before gRPC sees them, which wraps port 99999 to 34463 and takes a typo for a host name."""

import ipaddress
import re
import socket

_PORT = re.compile(r"[0-9]{1,5}")
_NAME = re.compile(r"[^\s/:@\[\]]+")
_MAX_PORT = 65535
# The names of the loopback addresses in /etc/hosts on common systems.
_LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"})


def check_address(address: str) -> None:
    """Validate an address to which a client may connect: HOST:PORT, [IPV6]:PORT, unix:PATH or dns:NAME:PORT.

    Raises:
        ValueError: the address has another form.
    """
    if address.startswith("unix:"):
        if not address.removeprefix("unix:").strip("/"):
            raise _wrong(address, "the socket's path is missing")
        return
    _, port = split_host_port(_without_scheme(address))
    if port == 0:
        raise _wrong(address, "port 0 cannot be connected to")


def split_host_port(address: str) -> tuple[str, int]:
    """The host, without the brackets of an IPv6 address, and the port, 0 to 65535.

    Raises:
        ValueError: the address is neither HOST:PORT nor [IPV6]:PORT.
    """
    host, _, port = address.rpartition(":")
    if not _PORT.fullmatch(port) or int(port) > _MAX_PORT:
        raise _wrong(address, f"a port lies between 0 and {_MAX_PORT}" if host and port else "")
    if host.startswith("[") and host.endswith("]"):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError as error:
            raise _wrong(address, str(error)) from None
        return host[1:-1], int(port)
    if not _NAME.fullmatch(host):
        raise _wrong(address)
    return host, int(port)


def host_of(address: str) -> str | None:
    """The host of an address that `check_address` accepts, without brackets; None for a socket file."""
    return None if address.startswith("unix:") else _without_scheme(address).rpartition(":")[0].strip("[]")


def ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a host is written as; None for a name. No name is resolved.

    The short forms that resolvers accept, such as 127.1, count; for an IPv4 address inside an IPv6 address, the result
    is the IPv4 address.
    """
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except OSError:
            return None
    return getattr(ip, "ipv4_mapped", None) or ip


def is_this_machine(host: str) -> bool:
    """Whether a host is this machine, as far as its name or IP address shows. No name is resolved.

    This machine's hosts are localhost and names below it, its own host name, the loopback and unspecified addresses,
    and the addresses of its network interfaces.
    """
    ip = ip_of(host)
    if ip is None:
        name = host.lower().rstrip(".")
        return name in _LOOPBACK_NAMES or name.endswith(".localhost") or name == socket.gethostname().lower()
    if ip.is_loopback or ip.is_unspecified:
        return True
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family) as probe:
            probe.bind((str(ip), 0))  # the system allows this only for its own addresses
    except OSError:
        return False
    return True


def _without_scheme(address: str) -> str:
    return address.removeprefix("dns:///").removeprefix("dns:")


def _wrong(address: str, reason: str = "") -> ValueError:
    detail = f" ({reason})" if reason else ""
    return ValueError(f"{address!r} is not an address of the form HOST:PORT{detail}")
