"""Finds ports for services that are about to start."""

import socket
from collections.abc import Sequence
from contextlib import ExitStack

from visionsplit.errors import VisionSplitError
from visionsplit.network.addresses import split_host_port


class AddressTakenError(VisionSplitError):
    """The address is in use, or does not belong to this machine."""


def free_addresses(addresses: Sequence[str]) -> list[str]:
    """The addresses, with a free port in place of 0, all different.

    Another server there would answer our health checks, so it is looked for before ours are started.

    Raises:
        ValueError: an address is not of the form HOST:PORT.
        AddressTakenError: a server cannot listen on one of them.
    """
    with ExitStack() as probes:  # all are held until the last is found, so that none is found twice
        return [_free_address(address, probes) for address in addresses]


def _free_address(address: str, probes: ExitStack) -> str:
    host, port = split_host_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    probe = probes.enter_context(socket.socket(family))
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((host, port))
        probe.listen()
    except OSError as error:
        raise AddressTakenError(f"cannot listen on {address}: {error.strerror}") from error
    return f"{address.rpartition(':')[0]}:{probe.getsockname()[1]}"
