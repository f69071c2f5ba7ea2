"""The blocking client's connections, and what it can ask of services about themselves."""

import threading
import time
import weakref
from collections.abc import Sequence
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from visionsplit.security.client import ClientSecurity
from visionsplit.v1 import encoder_service_pb2, llm_service_pb2
from visionsplit.v1.encoder_service_pb2_grpc import EncoderServiceStub
from visionsplit.v1.llm_service_pb2_grpc import LlmServiceStub

from visionsplit_client._base import (
    DEFAULT_ENCODER,
    PLAIN,
    BaseClient,
    TimeoutArgument,
    health_from_error,
    health_from_proto,
)
from visionsplit_client._calls import unary
from visionsplit_client._info import EncoderInfo, Health, HealthStatus, LlmInfo
from visionsplit_client._settings import (
    DEFAULT_LIMITS,
    DEFAULT_RETRIES,
    DEFAULT_TIMEOUTS,
    UNSET,
    Limits,
    Retries,
    Timeouts,
)
from visionsplit_client._transport import GrpcTransport, Transport

# The time in which gRPC's thread for a subscription notices that the subscription has ended: it looks every 0.2 seconds
# or, on a busy machine, later. If the channel is closed first, the thread ends with an exception; if the process ends
# first, the process hangs.
_WATCH_SECONDS = 0.5


class ConnectedClient(BaseClient):
    """`Client` without its calls on images; see there for the arguments."""

    def __init__(
        self,
        encoders: str | Sequence[str] = DEFAULT_ENCODER,
        *,
        llm: str | None = None,
        timeout: Timeouts | float | None = DEFAULT_TIMEOUTS,
        retries: Retries = DEFAULT_RETRIES,
        limits: Limits = DEFAULT_LIMITS,
        transport: Transport | None = None,
        security: ClientSecurity = PLAIN,
    ) -> None:
        super().__init__(encoders, llm, timeout, retries, limits, security, transport)
        self._transport = transport or GrpcTransport.of(security.tls)
        self._channels: dict[str, grpc.Channel] = {}
        self._watched: list[grpc.Channel] = []
        # Also at the end of a process that does not close its client: gRPC would wait for ever for its own thread.
        self._unwatch = weakref.finalize(self, _unwatch, self._watched)
        self._lock = threading.Lock()

    def encoder_info(self, *, timeout: TimeoutArgument = UNSET) -> EncoderInfo:
        """What an encoder runs, offers and accepts."""
        request = encoder_service_pb2.GetEncoderInfoRequest()
        return EncoderInfo.from_proto(
            unary(
                self._attempts(self._encoders, timeout),
                lambda address, seconds: EncoderServiceStub(self._channel(address)).GetEncoderInfo(
                    request, timeout=seconds, metadata=self._metadata()
                ),
            )
        )

    def llm_info(self, *, timeout: TimeoutArgument = UNSET) -> LlmInfo:
        """What the LLM service runs and accepts."""
        request = llm_service_pb2.GetLlmInfoRequest()
        return LlmInfo.from_proto(
            unary(
                self._attempts(self._llm_endpoints(), timeout),
                lambda address, seconds: LlmServiceStub(self._channel(address)).GetLlmInfo(
                    request, timeout=seconds, metadata=self._metadata()
                ),
            )
        )

    def health(self, *, timeout: float = 5.0) -> dict[str, HealthStatus]:
        """The state of every address, without retries. Raises only if a service has no health check."""
        return {address: health.status for address, health in self.health_details(timeout=timeout).items()}

    def health_details(self, *, timeout: float = 5.0) -> dict[str, Health]:
        """The same as `health`, with the reason why a service is unreachable."""
        self._check_open()
        return {address: self._health_of(address, timeout) for address in self._all_addresses()}

    def close(self) -> None:
        """Close the connections; calls that still run end with CancelledError."""
        with self._lock:
            self._closed = True
            channels, self._channels = list(self._channels.values()), {}
        self._unwatch()
        for channel in channels:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _health_of(self, address: str, timeout: float) -> Health:
        stub = health_pb2_grpc.HealthStub(self._channel(address))
        try:
            return health_from_proto(stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout))
        except grpc.RpcError as error:
            self._lost(address)
            return health_from_error(error, address, timeout)

    def _channel(self, address: str) -> grpc.Channel:
        with self._lock:
            self._check_open()
            if address not in self._channels:
                self._channels[address] = self._transport.connect(address)
            return self._channels[address]

    def _lost(self, address: str) -> None:
        """From now on wait for the service to come back.

        gRPC works on a blocking channel only while something waits for it. Without this, a handshake begun by a call
        that did not wait stands still, and the next calls fail; and a service that comes back is noticed every five
        seconds only.
        """
        with self._lock:
            channel = self._channels.get(address)
            if channel is not None and channel not in self._watched:
                channel.subscribe(_nothing)
                self._watched.append(channel)


def _unwatch(watched: list[grpc.Channel]) -> None:
    """End the watching of these channels. The thread that gRPC watches with notices it only after a while."""
    ended = watched.copy()
    watched.clear()
    for channel in ended:
        channel.unsubscribe(_nothing)
    if ended:
        time.sleep(_WATCH_SECONDS)


def _nothing(state: grpc.ChannelConnectivity) -> None:
    """The channel's state is of no interest."""
