"""A gRPC service in this process: load, listen, report health, drain, stop."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from visionsplit.receiving.receiver import ReceiveLimits, Receiver
from visionsplit.server.config import ServiceConfig
from visionsplit.server.in_process import InProcessMethods
from visionsplit.serving.caller import Callers
from visionsplit.serving.guard import ServerSecurityStack
from visionsplit.serving.health import HEALTH_SERVICE_NAME, HealthService
from visionsplit.serving.interceptors import ErrorInterceptor
from visionsplit.serving.overload import CallGate
from visionsplit.serving.server_options import server_options
from visionsplit.telemetry.setup import Telemetry


@dataclass(frozen=True)
class Service:
    """What distinguishes one service from another before anything is loaded."""

    name: str  # "encoder" or "llm": part of the names of metrics, traces and loggers
    full_name: str  # in the protocol, such as visionsplit.v1.LlmService
    relayed: bool = False  # whether callers may name on whose behalf they call; see `Callers`


@dataclass(frozen=True)
class Opened:
    """A service that is loaded and can take calls."""

    model: str  # the checkpoint's name
    add_to: Callable[[grpc.aio.Server], None]  # adds the servicer
    gate: CallGate  # through which every call of the servicer goes
    max_calls: int  # that run at one time


class ServiceServer(ABC):
    """One service. Started and stopped once, from one event loop."""

    def __init__(self, service: Service, config: ServiceConfig, receiving: ReceiveLimits) -> None:
        self.port = 0  # the real one once `start` has returned
        self.health = HealthService(service.full_name)
        self.telemetry = Telemetry(service.name, config.telemetry)
        self._service = service
        self._listen = config.listen
        self._security = config.security
        self._receiving = receiving
        self._log = logging.getLogger(f"{service.name}_service.server")
        self._server: grpc.aio.Server | None = None
        self._receiver: Receiver | None = None
        self._gate: CallGate | None = None

    @abstractmethod
    async def open(self, receiver: Receiver) -> Opened:
        """Load what takes calls. It is cancelled if the service is stopped meanwhile.

        Args:
            receiver: receives the requests of the calls, and names their callers.

        Raises:
            ConfigError: this machine or the checkpoint cannot honour a setting.
            CheckpointError: the checkpoint cannot be read or used.
        """

    async def serving(self) -> None:  # noqa: B027 - not every service has something to do
        """Called once the server takes calls, before `start` returns."""

    async def ending(self) -> None:  # noqa: B027 - as above
        """Called before the service refuses calls, also where `serving` was not."""

    @abstractmethod
    async def release(self) -> None:
        """Give back all that `open` took, also if it failed halfway or was not called."""

    @property
    def metrics_port(self) -> int | None:
        """Where metrics are served; None while they are not."""
        return self.telemetry.metrics_port

    async def start(self) -> int:
        """Load, bind the address and begin to serve. What was begun is given back if that fails.

        Returns:
            The port, chosen by the system if the address asked for port 0.

        Raises:
            VisionSplitError: see `open`; also CredentialsError if a certificate, key or token cannot be used, and
                UnavailableError if an address cannot be bound.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop(None)
            raise
        return self.port

    async def start_in_process(self) -> InProcessMethods:
        """Load, and begin to serve this process alone: no address is bound, and no token is asked for.

        Raises:
            VisionSplitError: see `open`. What was begun is given back.
        """
        try:
            receiver = self._receiver = Receiver(self._receiving, Callers(None, relayed=self._service.relayed))
            opened = await self.open(receiver)
            self._gate = opened.gate
            methods = InProcessMethods()
            opened.add_to(cast(grpc.aio.Server, methods))
            health_pb2_grpc.add_HealthServicer_to_server(self.health, cast(grpc.aio.Server, methods))
            await methods.intercept(self._interceptors([], receiver))
            receiver.start()
            self.health.set(serving=True)
            await self.serving()
        except BaseException:
            await self.stop(None)
            raise
        return methods

    async def stop(self, grace: float | None) -> None:
        """Report NOT_SERVING, refuse new calls, give those inside `grace` seconds to end, release everything."""
        await self.ending()
        self.health.shut_down()
        if self._gate is not None and not await self._gate.drain(grace) and grace:
            self._log.warning("calls still run after %g seconds of grace; they are cancelled", grace)
        if self._server is not None:
            # What is left now has had its time; health watchers alone would never end.
            await self._server.stop(None)
        if self._receiver is not None:
            await self._receiver.close()
        await self.release()
        await asyncio.to_thread(self.telemetry.close)

    def _interceptors(
        self, guards: Sequence[grpc.aio.ServerInterceptor], receiver: Receiver
    ) -> list[grpc.aio.ServerInterceptor]:
        # From the outside in: what counts calls sees the refused ones too, and what maps errors sees all of them.
        return [*self.telemetry.interceptors, *guards, ErrorInterceptor(self._log), receiver.interceptor]

    async def _start(self) -> None:
        guard = ServerSecurityStack(self._security)
        receiver = self._receiver = Receiver(self._receiving, Callers(guard.tokens, relayed=self._service.relayed))
        opened = await self.open(receiver)
        self._gate = opened.gate
        server = self._server = grpc.aio.server(
            interceptors=self._interceptors(guard.interceptors, receiver),
            options=server_options(max_receive_bytes=self._receiving.max_bytes, max_calls=opened.max_calls),
        )
        opened.add_to(server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        names = (self._service.full_name, HEALTH_SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        receiver.start()
        self.telemetry.serve_metrics()
        self.port = guard.bind(server, self._listen)
        await server.start()
        self.health.set(serving=True)
        await self.serving()
        self._log.info("serving %s on %s:%d", opened.model, self._listen.rpartition(":")[0], self.port)
