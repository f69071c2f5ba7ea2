"""The options of security, the same on every command line. They take paths, never a secret."""

import argparse
from pathlib import Path

from visionsplit.wire.security.client import ClientSecurity
from visionsplit.wire.security.files import CredentialsError
from visionsplit.wire.security.server import ServerSecurity
from visionsplit.wire.security.tls import ClientTls, ServerTls
from visionsplit.wire.security.tokens import BearerToken


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """What protects a service."""
    add = parser.add_argument_group("security of this service").add_argument
    add("--tls-cert", type=Path, metavar="PEM", help="certificate, with its chain; without it nothing is encrypted")
    add("--tls-key", type=Path, metavar="PEM", help="private key of that certificate")
    add("--tls-client-ca", type=Path, metavar="PEM", help="authorities; clients must show a certificate of theirs")
    add("--token-file", type=Path, metavar="FILE", help="accepted: [NAME] TOKEN [relay] a line; else all may call")


def server_security_from(options: argparse.Namespace) -> ServerSecurity:
    """
    Raises:
        CredentialsError: options that do not make sense without another.
    """
    if (options.tls_cert is None) != (options.tls_key is None):
        raise CredentialsError("--tls-cert and --tls-key go together: give both or neither")
    if options.tls_cert is None:
        if options.tls_client_ca is not None:
            raise CredentialsError("--tls-client-ca needs --tls-cert and --tls-key")
        return ServerSecurity(None, options.token_file)
    return ServerSecurity(ServerTls(options.tls_cert, options.tls_key, options.tls_client_ca), options.token_file)


def add_client_options(parser: argparse.ArgumentParser, *, service: str, prefix: str = "") -> None:
    """What a connection to services needs.

    Args:
        service: whose, as the help says it.
        prefix: of the options' names, such as "llm-".
    """
    add = parser.add_argument_group(f"security of the connection to {service}").add_argument
    add(f"--{prefix}tls", action="store_true", help="encrypt, and trust the authorities that come with gRPC")
    add(f"--{prefix}tls-ca", type=Path, metavar="PEM", help="encrypt, and trust these authorities")
    add(f"--{prefix}tls-cert", type=Path, metavar="PEM", help="certificate to show if the service asks for one")
    add(f"--{prefix}tls-key", type=Path, metavar="PEM", help="private key of that certificate")
    add(f"--{prefix}tls-server-name", metavar="NAME", help="that the service's certificate holds, if not its host")
    add(f"--{prefix}token-file", type=Path, metavar="FILE", help="its first token is sent with every call")
    add(
        f"--{prefix}allow-unencrypted-token",
        action="store_true",
        help="send the token to other machines without TLS too",
    )


def client_security_from(
    options: argparse.Namespace, *, prefix: str = "", fallback: BearerToken | None = None
) -> ClientSecurity:
    """
    Args:
        fallback: where the token comes from if no file is named.

    Raises:
        CredentialsError: options that do not make sense without another.
    """
    given = {name: getattr(options, f"{prefix}{name}".replace("-", "_")) for name in _CLIENT_OPTIONS}
    tls = None
    if any(given[name] for name in _CLIENT_OPTIONS if name.startswith("tls")):
        tls = ClientTls(given["tls-ca"], given["tls-cert"], given["tls-key"], given["tls-server-name"])
    token = fallback if given["token-file"] is None else BearerToken(file=given["token-file"])
    return ClientSecurity(tls, token, given["allow-unencrypted-token"])


_CLIENT_OPTIONS = ("tls", "tls-ca", "tls-cert", "tls-key", "tls-server-name", "token-file", "allow-unencrypted-token")
