"""TLS by configuration: paths in, gRPC's credentials out."""

from dataclasses import dataclass
from pathlib import Path

import grpc

from visionsplit.network.transport import ChannelOptions
from visionsplit.security.certificates import KeyPair, load_authorities, load_pair
from visionsplit.security.files import CredentialsError, Watched


@dataclass(frozen=True)
class ServerTls:
    """How a server proves itself, and whom it lets in. All files are PEM."""

    certificate: Path  # with the certificates between it and its authority
    key: Path
    client_ca: Path | None = None  # authorities of clients; with it, a client without a certificate is refused

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials that follow the files: a new connection gets what they hold then.

        Raises:
            CredentialsError: the files cannot be used.
        """
        paths = [path for path in (self.certificate, self.key, self.client_ca) if path is not None]
        watched = Watched(paths, self._configuration)
        in_force = watched.get()

        # gRPC calls this for each connection, under a lock, and makes a TLS context of every configuration it is given.
        # With a context for each connection, a thousand connections that timed out during the handshake ended the
        # process with a segmentation fault (grpcio 1.76 and 1.85). None stands for no change.
        def newer() -> grpc.ServerCertificateConfiguration | None:
            nonlocal in_force
            newest = watched.get()
            if newest is in_force:
                return None
            in_force = newest
            return newest

        return grpc.dynamic_ssl_server_credentials(
            in_force,
            newer,  # type: ignore[arg-type]  # the stubs do not know of None
            require_client_authentication=self.client_ca is not None,
        )

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        pair = load_pair(self.certificate, self.key)
        roots = None if self.client_ca is None else load_authorities(self.client_ca)
        return grpc.ssl_server_certificate_configuration([(pair.key, pair.certificate)], root_certificates=roots)


@dataclass(frozen=True)
class ClientTls:
    """Which servers a client trusts, and how it proves itself. All files are PEM.

    Raises:
        CredentialsError: a certificate without its key, or the other way round.
    """

    ca: Path | None = None  # authorities of servers; None: those that come with gRPC
    certificate: Path | None = None  # for servers that ask clients for one
    key: Path | None = None
    server_name: str | None = None  # that the server's certificate must hold; None: the host of the address

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise CredentialsError("a client's certificate and its key go together: give both or neither")

    @property
    def paths(self) -> list[Path]:
        return [path for path in (self.ca, self.certificate, self.key) if path is not None]

    def credentials(self) -> grpc.ChannelCredentials:
        """What the files hold now; a channel keeps it as long as it lives.

        Raises:
            CredentialsError: the files cannot be used.
        """
        roots, pair = self.read()
        if pair is None:
            return grpc.ssl_channel_credentials(roots)
        return grpc.ssl_channel_credentials(roots, pair.key, pair.certificate)

    def read(self) -> tuple[bytes | None, KeyPair | None]:
        """The authorities' certificates and this client's pair, checked.

        Raises:
            CredentialsError: the files cannot be used.
        """
        roots = None if self.ca is None else load_authorities(self.ca)
        if self.certificate is None or self.key is None:
            return roots, None
        return roots, load_pair(self.certificate, self.key)

    def options(self) -> ChannelOptions:
        """What a channel needs beside the credentials."""
        return [] if self.server_name is None else [("grpc.ssl_target_name_override", self.server_name)]
