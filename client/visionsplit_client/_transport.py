"""Connections to services. A client takes any object with `connect`, so tests and proxies can bring their own."""

from typing import Protocol, Self

import grpc
import grpc.aio
from visionsplit.network.transport import ChannelOptions, channel_options
from visionsplit.security.tls import ClientTls


class Transport(Protocol):
    """Opens the connections of a `Client`."""

    def connect(self, address: str) -> grpc.Channel:
        """A channel that connects on its own, and again after a loss."""
        ...


class AsyncTransport(Protocol):
    """Opens the connections of an `AsyncClient`. Called on the event loop that uses the client."""

    def connect(self, address: str) -> grpc.aio.Channel:
        """A channel that connects on its own, and again after a loss."""
        ...


class _Connector:
    """What both transports know.

    Args:
        credentials: encrypt with these; None makes plain connections.
        server_name: that a server's certificate must hold; None means the host of its address.
    """

    def __init__(self, credentials: grpc.ChannelCredentials | None = None, server_name: str | None = None) -> None:
        self._credentials = credentials
        self._tls_options = ClientTls(server_name=server_name).options()

    @classmethod
    def of(cls, tls: ClientTls | None) -> Self:
        """
        Raises:
            CredentialsError: the files cannot be used.
        """
        return cls() if tls is None else cls(tls.credentials(), tls.server_name)

    @property
    def encrypted(self) -> bool:
        return self._credentials is not None

    def _options(self, address: str) -> ChannelOptions:
        return [*channel_options(address), *self._tls_options]


class GrpcTransport(_Connector):
    """Plain connections, or encrypted ones if credentials are given."""

    def connect(self, address: str) -> grpc.Channel:
        if self._credentials is None:
            return grpc.insecure_channel(address, options=self._options(address))
        return grpc.secure_channel(address, self._credentials, options=self._options(address))


class AsyncGrpcTransport(_Connector):
    """Plain connections, or encrypted ones if credentials are given."""

    def connect(self, address: str) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(address, options=self._options(address))
        return grpc.aio.secure_channel(address, self._credentials, options=self._options(address))
