"""How a service is protected."""

from dataclasses import dataclass
from pathlib import Path

from visionsplit.security.tls import ServerTls


@dataclass(frozen=True)
class ServerSecurity:
    """Everything off is a plain connection on which everybody may call."""

    tls: ServerTls | None = None
    token_files: tuple[Path, ...] = ()  # a token from any of them is accepted; without files no token is needed
