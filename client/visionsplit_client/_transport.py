"""Connections to services. A client takes any object with `connect`, so tests and proxies can bring their own."""

from typing import Protocol

import grpc
import grpc.aio
from visionsplit.wire.transport import channel_options


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


class GrpcTransport:
    """Plain connections, or encrypted ones if credentials are given."""

    def __init__(self, credentials: grpc.ChannelCredentials | None = None) -> None:
        self._credentials = credentials

    def connect(self, address: str) -> grpc.Channel:
        if self._credentials is None:
            return grpc.insecure_channel(address, options=channel_options())
        return grpc.secure_channel(address, self._credentials, options=channel_options())


class AsyncGrpcTransport:
    """Plain connections, or encrypted ones if credentials are given."""

    def __init__(self, credentials: grpc.ChannelCredentials | None = None) -> None:
        self._credentials = credentials

    def connect(self, address: str) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(address, options=channel_options())
        return grpc.aio.secure_channel(address, self._credentials, options=channel_options())
