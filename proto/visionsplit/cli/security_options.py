"""The options of security, the same on every command line. They take paths, never a secret."""

import argparse
from pathlib import Path

from visionsplit.security.client import ClientSecurity
from visionsplit.security.files import CredentialsError
from visionsplit.security.server import ServerSecurity
from visionsplit.security.tls import ClientTls, ServerTls
from visionsplit.security.tokens import TOKEN_VARIABLE, BearerToken


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """What protects a service."""
    add = parser.add_argument_group("security of this service").add_argument
    add(
        "--tls-cert",
        type=Path,
        metavar="PEM",
        help="The file with the service's certificate and its chain. Default: none, and nothing is encrypted.",
    )
    add("--tls-key", type=Path, metavar="PEM", help="The private key of --tls-cert. Default: none.")
    add(
        "--tls-client-ca",
        type=Path,
        metavar="PEM",
        help="The authorities of whom clients must show a certificate. Default: none, and no certificate is asked for.",
    )
    add(
        "--token-file",
        type=Path,
        action="append",
        metavar="FILE",
        help="The file of accepted tokens, [NAME] TOKEN [relay] on each line; repeat the option for several files. "
        "Default: none, and all may call.",
    )


def server_security_from(options: argparse.Namespace) -> ServerSecurity:
    """
    Raises:
        CredentialsError: options that do not make sense without another.
    """
    if (options.tls_cert is None) != (options.tls_key is None):
        raise CredentialsError("--tls-cert and --tls-key go together: give both or neither")
    token_files = tuple(options.token_file or ())
    if options.tls_cert is None:
        if options.tls_client_ca is not None:
            raise CredentialsError("--tls-client-ca needs --tls-cert and --tls-key")
        return ServerSecurity(None, token_files)
    return ServerSecurity(ServerTls(options.tls_cert, options.tls_key, options.tls_client_ca), token_files)


def add_client_options(parser: argparse.ArgumentParser, *, service: str, prefix: str = "") -> None:
    """What a connection to services needs.

    Args:
        service: whose, as the help says it.
        prefix: of the options' names, such as "llm-".
    """
    add = parser.add_argument_group(f"security of the connection to {service}").add_argument
    add(f"--{prefix}tls", action="store_true", help="Encrypt, and trust the authorities that come with gRPC.")
    add(
        f"--{prefix}tls-ca",
        type=Path,
        metavar="PEM",
        help="Encrypt, and trust the authorities in this file. Default: those that come with gRPC.",
    )
    add(
        f"--{prefix}tls-cert",
        type=Path,
        metavar="PEM",
        help="The certificate to show if a service asks for one. Default: none.",
    )
    add(f"--{prefix}tls-key", type=Path, metavar="PEM", help=f"The private key of --{prefix}tls-cert. Default: none.")
    add(
        f"--{prefix}tls-server-name",
        metavar="NAME",
        help="The name in the service's certificate. Default: the host of the address.",
    )
    add(
        f"--{prefix}token-file",
        type=Path,
        metavar="FILE",
        help=f"The file whose first token is sent with every call. Default: {_default_token(prefix)}.",
    )
    add(
        f"--{prefix}allow-unencrypted-token",
        action="store_true",
        help="Send the token to other machines even without TLS.",
    )


def _default_token(prefix: str) -> str:
    return "none" if prefix else f"the environment variable {TOKEN_VARIABLE}, else none"


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
