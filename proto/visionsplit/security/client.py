"""What a client of a service needs to be let in, and what it must not give away on the way."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from visionsplit.network.addresses import host_of
from visionsplit.security.files import CredentialsError
from visionsplit.security.tls import ClientTls
from visionsplit.security.tokens import BearerToken


@dataclass(frozen=True)
class ClientSecurity:
    """How a client connects. Everything off is a plain connection without a token."""

    tls: ClientTls | None = None
    token: BearerToken | None = None
    allow_unencrypted_token: bool = False  # to services beyond this machine; whoever listens in may use it then

    def check(self, addresses: Iterable[str], *, encrypted: bool | None = None) -> None:
        """Refuse to show a token to whoever listens in.

        Args:
            encrypted: of the connection, where something other than `tls` decides that.

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
    """Whether an address of gRPC's stays on this machine: a socket file, localhost or a loopback address."""
    host = host_of(address)
    if host is None:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_every_address(address: str) -> bool:
    """Whether a server would listen on every address of this machine; a client reaches this machine by it."""
    return host_of(address) in ("0.0.0.0", "::")
