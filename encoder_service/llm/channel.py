"""The connection to the LLM service: encrypted if configured, replaced when its certificates change."""

import asyncio
import logging
from typing import Protocol

import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from visionsplit.network.addresses import host_of
from visionsplit.network.proxies import grpc_proxy
from visionsplit.network.transport import channel_options
from visionsplit.security.client import ClientSecurity
from visionsplit.security.reloaded_files import ReloadingFiles
from visionsplit.v1 import llm_service_pb2_grpc

_log = logging.getLogger(__name__)


class LlmConnection(Protocol):
    """The interface of a connection to an LLM service."""

    def stub(self) -> "llm_service_pb2_grpc.LlmServiceAsyncStub":
        """A stub for one call; the next call may use another connection."""
        ...

    def health(self) -> "health_pb2_grpc.HealthAsyncStub":
        """A stub for one health check."""
        ...

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata that authenticates this encoder to the LLM service."""
        ...

    async def close(self) -> None: ...


# A service that is back is found within two seconds, with the time between two health checks (endpoints.py).
_RECONNECT_OPTION, _MAX_RECONNECT_MS = "grpc.max_reconnect_backoff_ms", 1000
_RETIRING_SECONDS = 3600.0  # for running calls when their connection is replaced


class LlmChannel(LlmConnection):
    """Calls on one address of the LLM service. Made and used on one event loop.

    Raises:
        CredentialsError: a certificate or token cannot be used, or the token would travel in clear.
    """

    def __init__(self, address: str, security: ClientSecurity) -> None:
        security.check([address])
        self._address = address
        proxy, host = grpc_proxy(address), host_of(address)
        if proxy is not None and host is not None:
            _log.warning("LLM service at %s: %s", address, proxy.hint(host))
        self._token = None if security.token is None else security.token.sender()
        tls = security.tls
        options = {**dict(channel_options(address)), _RECONNECT_OPTION: _MAX_RECONNECT_MS}
        self._options = [*options.items(), *(() if tls is None else tls.options())]
        self._credentials = None if tls is None else ReloadingFiles(tls.paths, tls.credentials)
        self._used = None if self._credentials is None else self._credentials.get()
        self._channel = self._connect()
        self._retiring: set[asyncio.Task[None]] = set()

    def stub(self) -> "llm_service_pb2_grpc.LlmServiceAsyncStub":
        return llm_service_pb2_grpc.LlmServiceStub(self._current())

    def health(self) -> "health_pb2_grpc.HealthAsyncStub":
        return health_pb2_grpc.HealthStub(self._current())

    def _current(self) -> grpc.aio.Channel:
        if self._credentials is not None and (now := self._credentials.get()) is not self._used:
            # gRPC's client cannot change a channel's certificate; running calls end on the old channel.
            retiring = asyncio.create_task(self._channel.close(grace=_RETIRING_SECONDS))
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)
            self._used = now
            self._channel = self._connect()
        return self._channel

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return () if self._token is None else self._token.metadata()

    async def close(self) -> None:
        for retiring in self._retiring:
            retiring.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await self._channel.close()

    def _connect(self) -> grpc.aio.Channel:
        if self._used is None:
            return grpc.aio.insecure_channel(self._address, options=self._options)
        return grpc.aio.secure_channel(self._address, self._used, options=self._options)
