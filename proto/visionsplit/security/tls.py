"""TLS settings as file paths, and gRPC credentials made from them."""

from dataclasses import dataclass
from pathlib import Path

import grpc

from visionsplit.network.transport import ChannelOptions
from visionsplit.security.certificates import KeyPair, load_authorities, load_pair
from visionsplit.security.reloaded_files import CredentialsError, ReloadingFiles


@dataclass(frozen=True)
class ServerTls:
    """A server's certificate, and the clients that it accepts. All files are PEM."""

    certificate: Path  # with the intermediate certificates up to its authority
    key: Path
    client_ca: Path | None = None  # authorities of clients; if set, a client without a certificate is refused

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials that follow the files: each new connection uses their present content.

        Raises:
            CredentialsError: the files cannot be used.
        """
        paths = [path for path in (self.certificate, self.key, self.client_ca) if path is not None]
        files = ReloadingFiles(paths, self._configuration)
        in_force = files.get()

        # gRPC calls this for each connection, under a lock, and creates a TLS context from every configuration that it
        # returns. With a new context for each connection, a thousand connections that timed out during the handshake
        # ended the process with a segmentation fault (grpcio 1.76 and 1.85). None means no change.
        def newer() -> grpc.ServerCertificateConfiguration | None:
            nonlocal in_force
            newest = files.get()
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
    """The servers that a client trusts, and the client's own certificate. All files are PEM.

    Raises:
        CredentialsError: a certificate is given without its key, or a key without its certificate.
    """

    ca: Path | None = None  # authorities of servers; None uses those that come with gRPC
    certificate: Path | None = None  # for servers that require one of clients
    key: Path | None = None
    server_name: str | None = None  # the name that the server's certificate must contain; None: the address's host

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise CredentialsError("a client's certificate and its key go together: give both or neither")

    @property
    def paths(self) -> list[Path]:
        return [path for path in (self.ca, self.certificate, self.key) if path is not None]

    def credentials(self) -> grpc.ChannelCredentials:
        """Credentials from the present files; a channel keeps them for its lifetime.

        Raises:
            CredentialsError: the files cannot be used.
        """
        roots, pair = self.read()
        if pair is None:
            return grpc.ssl_channel_credentials(roots)
        return grpc.ssl_channel_credentials(roots, pair.key, pair.certificate)

    def read(self) -> tuple[bytes | None, KeyPair | None]:
        """Load and validate the authorities' certificates and this client's certificate and key.

        Raises:
            CredentialsError: the files cannot be used.
        """
        roots = None if self.ca is None else load_authorities(self.ca)
        if self.certificate is None or self.key is None:
            return roots, None
        return roots, load_pair(self.certificate, self.key)

    def options(self) -> ChannelOptions:
        """Channel options that are needed in addition to the credentials."""
        return [] if self.server_name is None else [("grpc.ssl_target_name_override", self.server_name)]
