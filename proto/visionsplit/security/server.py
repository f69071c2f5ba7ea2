"""How a service is protected."""

from dataclasses import dataclass
from pathlib import Path

from visionsplit.security.tls import ServerTls


@dataclass(frozen=True)
class ServerSecurity:
    """TLS and tokens of a service. Without either, connections are plain and all callers are accepted."""

    tls: ServerTls | None = None
    token_files: tuple[Path, ...] = ()  # a token from any of them is accepted; without files no token is needed
