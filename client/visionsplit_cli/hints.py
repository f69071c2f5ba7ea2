"""What the tool adds to an error: what the user can do about it."""

from collections.abc import Iterable, Sequence

from visionsplit.network.addresses import host_of, is_this_machine
from visionsplit_client import UnreachableError

from visionsplit_cli import report


def explained(error: Exception, images: Sequence[str] = ()) -> str:
    """One line on a failure, with what to do about it.

    Args:
        images: the names of the call's images, in order.
    """
    hint = start_hint([error.address]) if isinstance(error, UnreachableError) else ""
    return report.message(error, images) + hint


def start_hint(addresses: Iterable[str]) -> str:
    """How to start services that should run on this machine and do not; empty for services elsewhere."""
    hosts = map(host_of, addresses)
    is_local = any(host is None or is_this_machine(host) for host in hosts)
    return "; to start the services here, run: visionsplit up" if is_local else ""
