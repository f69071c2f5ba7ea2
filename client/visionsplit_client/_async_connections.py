"""The same as `_connections` for an event loop."""

# ruff: noqa: ASYNC109 - the timeout is a deadline that travels with the call, which asyncio.timeout cannot do

import asyncio
from collections.abc import Sequence
from typing import Self

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from visionsplit.security.client import ClientSecurity
from visionsplit.v1 import encoder_service_pb2, llm_service_pb2
from visionsplit.v1.encoder_service_pb2_grpc import EncoderServiceStub
from visionsplit.v1.llm_service_pb2_grpc import LlmServiceStub

from visionsplit_client._async_calls import unary
from visionsplit_client._base import (
    DEFAULT_ENCODER,
    PLAIN,
    BaseClient,
    TimeoutArgument,
    health_from_error,
    health_from_proto,
)
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
from visionsplit_client._transport import AsyncGrpcTransport, AsyncTransport


class AsyncConnectedClient(BaseClient):
    """`AsyncClient` without its calls on images; see there for the arguments."""

    def __init__(
        self,
        encoders: str | Sequence[str] = DEFAULT_ENCODER,
        *,
        llm: str | None = None,
        timeout: Timeouts | float | None = DEFAULT_TIMEOUTS,
        retries: Retries = DEFAULT_RETRIES,
        limits: Limits = DEFAULT_LIMITS,
        transport: AsyncTransport | None = None,
        security: ClientSecurity = PLAIN,
    ) -> None:
        super().__init__(encoders, llm, timeout, retries, limits, security, transport)
        self._transport = transport or AsyncGrpcTransport.of(security.tls)
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def encoder_info(self, *, timeout: TimeoutArgument = UNSET) -> EncoderInfo:
        """What an encoder runs, offers and accepts."""
        request = encoder_service_pb2.GetEncoderInfoRequest()
        return EncoderInfo.from_proto(
            await unary(
                self._attempts(self._encoders, timeout),
                lambda address, seconds: EncoderServiceStub(self._channel(address)).GetEncoderInfo(
                    request, timeout=seconds, metadata=self._metadata()
                ),
            )
        )

    async def llm_info(self, *, timeout: TimeoutArgument = UNSET) -> LlmInfo:
        """What the LLM service runs and accepts."""
        request = llm_service_pb2.GetLlmInfoRequest()
        return LlmInfo.from_proto(
            await unary(
                self._attempts(self._llm_endpoints(), timeout),
                lambda address, seconds: LlmServiceStub(self._channel(address)).GetLlmInfo(
                    request, timeout=seconds, metadata=self._metadata()
                ),
            )
        )

    async def health(self, *, timeout: float = 5.0) -> dict[str, HealthStatus]:
        """The state of every address, without retries. Raises only if a service has no health check."""
        return {address: health.status for address, health in (await self.health_details(timeout=timeout)).items()}

    async def health_details(self, *, timeout: float = 5.0) -> dict[str, Health]:
        """The same as `health`, with the reason why a service is unreachable."""
        self._check_open()
        addresses = self._all_addresses()
        answers = await asyncio.gather(*(self._health_of(address, timeout) for address in addresses))
        return dict(zip(addresses, answers, strict=True))

    async def close(self) -> None:
        """Close the connections; calls that still run end with CancelledError."""
        self._closed = True
        channels, self._channels = list(self._channels.values()), {}
        await asyncio.gather(*(channel.close() for channel in channels))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _health_of(self, address: str, timeout: float) -> Health:
        stub = health_pb2_grpc.HealthStub(self._channel(address))
        try:
            return health_from_proto(await stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout))
        except grpc.RpcError as error:
            return health_from_error(error, address, timeout)

    def _channel(self, address: str) -> grpc.aio.Channel:
        self._check_open()
        if address not in self._channels:
            self._channels[address] = self._transport.connect(address)
        return self._channels[address]
