"""The settings of security, the same for the services and the command-line tool. They hold paths, never a secret."""

import argparse
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from visionsplit.command_line.configuration import add_option
from visionsplit.command_line.parser import flag, path, word
from visionsplit.command_line.settings import build, declared, setting
from visionsplit.security.client import ClientSecurity
from visionsplit.security.reloaded_files import CredentialsError
from visionsplit.security.server import ServerSecurity
from visionsplit.security.tls import ClientTls, ServerTls
from visionsplit.security.tokens import TOKEN_VARIABLE, BearerToken

T = TypeVar("T")

_pem = replace(path, metavar="PEM")
_server = partial(setting, "security of this service")
_client = partial(setting, "security of the connection to the LLM service")


@dataclass(frozen=True)
class ServerSecuritySettings:
    """What protects a service."""

    tls_cert: Path | None = _server(
        None, _pem, "The file with the service's certificate and its chain.", absent="none, and nothing is encrypted"
    )
    tls_key: Path | None = _server(None, _pem, "The private key of --tls-cert.")
    tls_client_ca: Path | None = _server(
        None,
        _pem,
        "The authorities of whom clients must show a certificate.",
        absent="none, and no certificate is asked for",
    )
    token_file: tuple[Path, ...] = _server(
        (),
        path,
        "The file of accepted tokens, [NAME] TOKEN [relay] on each line; repeat the option for several files.",
        many=True,
        absent="none, and all may call",
    )

    def make(self) -> ServerSecurity:
        """
        Raises:
            CredentialsError: settings that do not make sense without another.
        """
        if self.tls_cert is None or self.tls_key is None:
            if self.tls_cert is not self.tls_key:
                raise CredentialsError("--tls-cert and --tls-key go together: give both or neither")
            if self.tls_client_ca is not None:
                raise CredentialsError("--tls-client-ca needs --tls-cert and --tls-key")
            return ServerSecurity(None, self.token_file)
        return ServerSecurity(ServerTls(self.tls_cert, self.tls_key, self.tls_client_ca), self.token_file)


@dataclass(frozen=True)
class ClientSecuritySettings:
    """What a connection to a service needs."""

    tls: bool = _client(False, flag, "Encrypt, and trust the authorities that come with gRPC.")
    tls_ca: Path | None = _client(
        None, _pem, "Encrypt, and trust the authorities in this file.", absent="those that come with gRPC"
    )
    tls_cert: Path | None = _client(None, _pem, "The certificate to show if a service asks for one.")
    tls_key: Path | None = _client(None, _pem, "The private key of the certificate to show.")
    tls_server_name: str | None = _client(
        None, word, "The name in the service's certificate.", metavar="NAME", absent="the host of the address"
    )
    token_file: Path | None = _client(None, path, "The file whose first token is sent with every call.")
    allow_unencrypted_token: bool = _client(False, flag, "Send the token to other machines even without TLS.")

    def make(self, fallback: BearerToken | None = None) -> ClientSecurity:
        """
        Args:
            fallback: where the token comes from if no file is named.

        Raises:
            CredentialsError: settings that do not make sense without another.
        """
        tls = ClientTls(self.tls_ca, self.tls_cert, self.tls_key, self.tls_server_name)
        token = fallback if self.token_file is None else BearerToken(file=self.token_file)
        return ClientSecurity(tls if self.tls or tls != ClientTls() else None, token, self.allow_unencrypted_token)


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """What protects a service."""
    _add(parser, ServerSecuritySettings, "security of this service")


def server_security_from(options: argparse.Namespace) -> ServerSecurity:
    """
    Raises:
        CredentialsError: options that do not make sense without another.
    """
    return _from(options, ServerSecuritySettings).make()


def add_client_options(parser: argparse.ArgumentParser, *, service: str) -> None:
    """What a connection to services needs. `service`: whose, as the help says it."""
    title = f"security of the connection to {service}"
    _add(parser, ClientSecuritySettings, title, token_file=f"the environment variable {TOKEN_VARIABLE}, else none")


def client_security_from(options: argparse.Namespace, *, fallback: BearerToken | None = None) -> ClientSecurity:
    """
    Args:
        fallback: where the token comes from if no file is named.

    Raises:
        CredentialsError: options that do not make sense without another.
    """
    return _from(options, ClientSecuritySettings).make(fallback)


def _add(parser: argparse.ArgumentParser, cls: type, title: str, **absent: str) -> None:
    group = parser.add_argument_group(title)
    for one in declared(cls):
        shown = replace(one.setting, absent=absent.get(one.name, one.setting.absent))
        add_option(group, replace(one, setting=shown), default=None if one.setting.many else one.default)


def _from(options: argparse.Namespace, cls: type[T]) -> T:
    given = {one.name: getattr(options, one.name) for one in declared(cls)}
    return build(cls, {name: value for name, value in given.items() if value})
