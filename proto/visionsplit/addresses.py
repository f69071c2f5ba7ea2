"""Checks addresses before gRPC sees them: it takes port 99999 for 34463, and a slip of the pen for a host's name."""

import ipaddress
import re

_PORT = re.compile(r"[0-9]{1,5}")
_NAME = re.compile(r"[^\s/:@\[\]]+")
_MAX_PORT = 65535


def check_address(address: str) -> None:
    """Accept what a client may connect to: HOST:PORT, [IPV6]:PORT, unix:PATH, dns:NAME:PORT.

    Raises:
        ValueError: anything else.
    """
    if address.startswith("unix:"):
        if not address.removeprefix("unix:").strip("/"):
            raise _wrong(address, "the socket's path is missing")
        return
    _, port = split_host_port(address.removeprefix("dns:///").removeprefix("dns:"))
    if port == 0:
        raise _wrong(address, "port 0 cannot be connected to")


def split_host_port(address: str) -> tuple[str, int]:
    """The host, without the brackets of an IPv6 address, and the port, 0 to 65535.

    Raises:
        ValueError: the address is no HOST:PORT and no [IPV6]:PORT.
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


def _wrong(address: str, reason: str = "") -> ValueError:
    detail = f" ({reason})" if reason else ""
    return ValueError(f"{address!r} is no address of the form HOST:PORT{detail}")
