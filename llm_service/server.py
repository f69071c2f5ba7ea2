"""The server around the gateway: start, health, drain, stop."""

import asyncio
import logging

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from visionsplit.checkpoint import Checkpoint
from visionsplit.v1 import llm_service_pb2, llm_service_pb2_grpc
from visionsplit.wire.status import ErrorInterceptor
from visionsplit.wire.transport import MAX_TOKEN_MESSAGE_BYTES, server_options

from llm_service.backends import make_backend
from llm_service.backends.base import Backend
from llm_service.config import LlmConfig
from llm_service.gateway import LlmGateway
from llm_service.prompt import PromptEncoder
from llm_service.text_model import end_of_sequence_ids
from llm_service.upload import Accepted

_log = logging.getLogger(__name__)
SERVICE_NAME = llm_service_pb2.DESCRIPTOR.services_by_name["LlmService"].full_name


class LlmServer:
    """The LLM service of one checkpoint on one address."""

    def __init__(self, config: LlmConfig) -> None:
        self._config = config
        self._backend: Backend | None = None
        self._server: grpc.aio.Server | None = None
        self._gateway: LlmGateway | None = None
        self._health = health.aio.HealthServicer()

    async def start(self) -> int:
        """Load, bind and serve.

        Returns:
            The port.

        Raises:
            CheckpointError: the checkpoint cannot be read.
            RuntimeError: the address cannot be bound.
        """
        self._backend = make_backend(self._config)
        try:
            self._gateway = await self._make_gateway(self._backend)
            self._server, port = await self._serve(self._gateway)
        except BaseException:
            await self.stop(None)
            raise
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        _log.info("serving %s on %s", self._config.model, _with_port(self._config.listen, port))
        return port

    async def stop(self, grace: float | None) -> None:
        """Refuse new requests, let running ones end for `grace` seconds, then cancel them and release everything."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        if self._gateway is not None:
            self._gateway.drain()
            if grace:
                await _wait(self._gateway, grace)
            self._gateway = None
        if self._server is not None:
            await self._server.stop(None)
            self._server = None
        if self._backend is not None:
            await self._backend.stop()
            self._backend = None

    async def _make_gateway(self, backend: Backend) -> LlmGateway:
        config = self._config
        checkpoint = await asyncio.to_thread(Checkpoint, config.model, revision=config.revision)
        prompts = await asyncio.to_thread(PromptEncoder, checkpoint, max_characters=config.limits.max_prompt_characters)
        accepted = await asyncio.to_thread(
            Accepted.by_checkpoint,
            checkpoint,
            max_images=config.limits.max_images,
            default_max_new_tokens=config.limits.default_max_new_tokens,
        )
        return LlmGateway(
            model=checkpoint.name,
            backend=backend,
            replica=await backend.start(),
            accepted=accepted,
            prompts=prompts,
            end_ids=end_of_sequence_ids(checkpoint),
            limits=config.limits,
        )

    async def _serve(self, gateway: LlmGateway) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(
            interceptors=[ErrorInterceptor(_log)],
            options=server_options(max_receive_bytes=MAX_TOKEN_MESSAGE_BYTES),
        )
        llm_service_pb2_grpc.add_LlmServiceServicer_to_server(gateway, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        port = server.add_insecure_port(self._config.listen)
        await server.start()
        return server, port

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", SERVICE_NAME):
            await self._health.set(service, status)


async def _wait(gateway: LlmGateway, grace: float) -> None:
    try:
        await asyncio.wait_for(gateway.idle(), grace)
    except TimeoutError:
        _log.warning("requests still run after %g seconds of grace; they are cancelled", grace)


def _with_port(listen: str, port: int) -> str:
    return f"{listen.rpartition(':')[0]}:{port}"
