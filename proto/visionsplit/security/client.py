"""TLS and the token of a client, and the rule that keeps the token off unencrypted connections."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from visionsplit.network.addresses import host_of
from visionsplit.security.reloaded_files import CredentialsError
from visionsplit.security.tls import ClientTls
from visionsplit.security.tokens import BearerToken


@dataclass(frozen=True)
class ClientSecurity:
    """How a client connects. The default is an unencrypted connection without a token."""

    tls: ClientTls | None = None
    token: BearerToken | None = None
    allow_unencrypted_token: bool = False  # to services beyond this machine, where an eavesdropper could then use it

    def check(self, addresses: Iterable[str], *, encrypted: bool | None = None) -> None:
        """Refuse to send a token over an unencrypted connection that leaves this machine.

        Args:
            encrypted: whether the connection is encrypted, if that is not decided by `tls`.

        Raises:
            CredentialsError: names the address.
        """
        encrypted = self.tls is not None if encrypted is None else encrypted
        if self.token is None or encrypted or self.allow_unencrypted_token:
            return
        for address in addresses:
            if not (is_local(address) or _is_every_address(address)):
                raise CredentialsError(
                    f"the token would go to {address} over a connection that is not encrypted; use TLS, "
                    "or allow it explicitly"
                )


def is_local(address: str) -> bool:
    """Whether a gRPC address stays on this machine: a socket file, localhost or a loopback address."""
    host = host_of(address)
    if host is None:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_every_address(address: str) -> bool:
    """Whether a server at this address listens on every interface; for a client, the address means this machine."""
    return host_of(address) in ("0.0.0.0", "::")
