"""The server around the gateway: start, health, drain, stop."""

import asyncio
import logging

import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from visionsplit.model.checkpoint import Checkpoint
from visionsplit.network.transport import MAX_TOKEN_MESSAGE_BYTES
from visionsplit.receiving.receiver import ReceiveLimits, Receiver
from visionsplit.security.server import ServerSecurityStack
from visionsplit.serving.caller import Callers
from visionsplit.serving.health import HEALTH_SERVICE_NAME, HealthService
from visionsplit.serving.server_options import server_options
from visionsplit.telemetry.setup import Telemetry
from visionsplit.v1 import llm_service_pb2, llm_service_pb2_grpc
from visionsplit.wire.status import ErrorInterceptor

from llm_service.backends import make_backend
from llm_service.backends.base import Backend
from llm_service.config import LlmConfig
from llm_service.gateway.accepted import Accepted
from llm_service.gateway.admission import Admission
from llm_service.gateway.metrics import LlmMetrics
from llm_service.gateway.replica_watch import ReplicaWatch
from llm_service.gateway.service import LlmGateway
from llm_service.generation_settings import GenerationSettings
from llm_service.prompts.fewest_tokens import FewestTokens
from llm_service.prompts.prompt import PromptEncoder
from llm_service.prompts.size import PromptSize
from llm_service.prompts.turns import PromptTurns

_log = logging.getLogger(__name__)
SERVICE_NAME = llm_service_pb2.DESCRIPTOR.services_by_name["LlmService"].full_name


class LlmServer:
    """The LLM service of one checkpoint on one address."""

    def __init__(self, config: LlmConfig) -> None:
        self._config = config
        self._backend: Backend | None = None
        self._server: grpc.aio.Server | None = None
        self._receiver: Receiver | None = None
        self._admission: Admission | None = None
        self._health = HealthService(SERVICE_NAME)
        self._watch: ReplicaWatch | None = None
        self._telemetry = Telemetry("llm", config.telemetry)
        self._metrics = LlmMetrics(self._telemetry.registry)

    @property
    def metrics_port(self) -> int | None:
        """Where metrics are served; None while they are not."""
        return self._telemetry.metrics_port

    async def start(self) -> int:
        """Load, bind and serve.

        Returns:
            The port.

        Raises:
            CheckpointError: the checkpoint cannot be read or used.
            CredentialsError: a certificate, key or token cannot be used.
            UnavailableError: the address cannot be bound.
            ValueError: the device is not there.
        """
        guard = ServerSecurityStack(self._config.security)
        limits = self._config.limits
        receiver = self._receiver = Receiver(
            ReceiveLimits(max_bytes=MAX_TOKEN_MESSAGE_BYTES, caller_share=limits.caller_share),
            Callers(guard.tokens, relayed=True),
        )
        self._backend = make_backend(self._config)
        try:
            gateway = await self._make_gateway(self._backend, receiver)
            self._telemetry.serve_metrics()
            receiver.start()
            max_calls = limits.max_calls or self._backend.max_calls
            self._server, port = await self._serve(gateway, guard, receiver, max_calls)
        except BaseException:
            await self.stop(None)
            raise
        self._health.set(serving=True)
        assert self._admission is not None, "_make_gateway has made it"
        self._watch = ReplicaWatch(
            self._backend, self._metrics, self._health, set_replicas=self._admission.set_replicas
        )
        await self._watch.start()
        _log.info("serving %s on %s", self._config.model, _with_port(self._config.listen, port))
        return port

    async def stop(self, grace: float | None) -> None:
        """Refuse new requests, let running ones end for `grace` seconds, then cancel them and release everything."""
        if self._watch is not None:
            await self._watch.stop()
            self._watch = None
        self._health.shut_down()
        if self._admission is not None and not await self._admission.gate.drain(grace) and grace:
            _log.warning("requests still run after %g seconds of grace; they are cancelled", grace)
        if self._server is not None:
            await self._server.stop(None)
            self._server = None
        if self._receiver is not None:
            await self._receiver.close()
        if self._backend is not None:
            await self._backend.stop()
            self._backend = None
        await asyncio.to_thread(self._telemetry.close)

    async def _make_gateway(self, backend: Backend, receiver: Receiver) -> LlmGateway:
        config = self._config
        checkpoint = await asyncio.to_thread(Checkpoint, config.model, revision=config.revision)
        prompts = await asyncio.to_thread(PromptEncoder, checkpoint)
        fewest = await asyncio.to_thread(FewestTokens, prompts.tokenizer)
        settings = await asyncio.to_thread(GenerationSettings.of, checkpoint)
        replica = await backend.start()
        accepted = await asyncio.to_thread(
            Accepted.by_checkpoint, checkpoint, settings, config.limits, context_length=replica.context_length
        )
        size = PromptSize(
            fewest, context_length=replica.context_length, max_characters=config.limits.max_prompt_characters
        )
        receiver.max_prompt_bytes = size.max_bytes
        self._admission = Admission(
            config.limits,
            max_running=config.engine.max_running,
            max_calls=backend.max_calls,
            uploads=self._metrics.uploads,
        )
        return LlmGateway(
            model=checkpoint.name,
            backend=backend,
            replica=replica,
            accepted=accepted,
            admission=self._admission,
            callers=receiver.callers,
            prompts=prompts,
            prompt_turns=PromptTurns(prompts, size),
            end_ids=settings.end_ids,
            metrics=self._metrics,
            tracer=self._telemetry.tracer,
            log_prompts=config.telemetry.log_prompts,
        )

    async def _serve(
        self, gateway: LlmGateway, guard: ServerSecurityStack, receiver: Receiver, max_calls: int
    ) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(
            interceptors=[
                *self._telemetry.interceptors,
                *guard.interceptors,
                ErrorInterceptor(_log),
                receiver.interceptor,
            ],
            options=server_options(max_receive_bytes=MAX_TOKEN_MESSAGE_BYTES, max_calls=max_calls),
        )
        llm_service_pb2_grpc.add_LlmServiceServicer_to_server(gateway, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE_NAME, HEALTH_SERVICE_NAME, reflection.SERVICE_NAME), server)
        port = guard.bind(server, self._config.listen)
        await server.start()
        return server, port


def _with_port(listen: str, port: int) -> str:
    return f"{listen.rpartition(':')[0]}:{port}"
