"""What both clients share: configuration, addresses, retries, requests. No input or output happens here."""

from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2
from visionsplit.errors import DeadlineError, UnavailableError
from visionsplit.network.addresses import check_address
from visionsplit.security.client import ClientSecurity
from visionsplit.wire.request_id import REQUEST_ID_KEY

from visionsplit_client._errors import call_error
from visionsplit_client._info import Health, HealthStatus
from visionsplit_client._retry import Attempts, Endpoints
from visionsplit_client._settings import Limits, Retries, Timeouts, Unset, check_seconds

DEFAULT_ENCODER = "127.0.0.1:50051"
PLAIN = ClientSecurity()

Metadata = tuple[tuple[str, str], ...]
TimeoutArgument = float | None | Unset


class BaseClient:
    """Configuration and decisions of a client."""

    def __init__(
        self,
        encoders: str | Sequence[str],
        llm: str | None,
        timeout: Timeouts | float | None,
        retries: Retries,
        limits: Limits,
        security: ClientSecurity,
        transport: object | None,
    ) -> None:
        self._encoders = Endpoints([encoders] if isinstance(encoders, str) else encoders, "an encoder service")
        self._llm = None if llm is None else Endpoints([llm], "an LLM service")
        for address in self._all_addresses():
            check_address(address)
        self._timeouts = timeout if isinstance(timeout, Timeouts) else Timeouts(call=timeout)
        self._retries = retries
        self._limits = limits
        if transport is not None and security.tls is not None:
            raise ValueError("a transport of your own decides about TLS itself; give one of the two")
        # A transport of the caller's that does not say is taken for an unencrypted one.
        security.check(self._all_addresses(), encrypted=getattr(transport, "encrypted", security.tls is not None))
        self._token = None if security.token is None else security.token.sender()
        self._closed = False

    @property
    def is_closed(self) -> bool:
        return self._closed

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the client is closed")

    def _llm_endpoints(self) -> Endpoints:
        if self._llm is None:
            raise ValueError("this needs the LLM service's address; give the client llm='host:port'")
        return self._llm

    def _attempts(self, endpoints: Endpoints, timeout: TimeoutArgument) -> Attempts:
        self._check_open()
        seconds = self._timeouts.call if isinstance(timeout, Unset) else timeout
        check_seconds("timeout", seconds)
        return Attempts(endpoints, self._retries, seconds, on_lost=self._lost)

    def _lost(self, address: str) -> None:
        """Called where no answer came from an address."""

    def _metadata(self, request_id: str | None = None) -> Metadata:
        """What a call carries beside its request."""
        named = () if request_id is None else ((REQUEST_ID_KEY, request_id),)
        return named if self._token is None else (*named, *self._token.metadata())

    def _all_addresses(self) -> list[str]:
        return [*self._encoders.addresses, *(self._llm.addresses if self._llm else ())]


def health_from_proto(message: health_pb2.HealthCheckResponse) -> Health:
    serving = message.status == health_pb2.HealthCheckResponse.SERVING
    return Health(HealthStatus.SERVING if serving else HealthStatus.NOT_SERVING)


def health_from_error(error: grpc.RpcError, address: str, timeout: float) -> Health:
    """UNREACHABLE for a service that does not answer; raises any other error."""
    failure = call_error(error, address, timeout, "a service with a health check")
    if isinstance(failure, UnavailableError | DeadlineError):
        return Health(HealthStatus.UNREACHABLE, str(failure))
    raise failure from error
