"""The encoder as a running server: loads, listens, drains, stops."""

import asyncio
import logging
from dataclasses import dataclass

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from visionsplit.checkpoint import Checkpoint
from visionsplit.errors import UnavailableError
from visionsplit.v1 import encoder_service_pb2, encoder_service_pb2_grpc
from visionsplit.wire.status import ErrorInterceptor
from visionsplit.wire.transport import server_options

from encoder_service.admission import Admission
from encoder_service.batching import TileBatcher
from encoder_service.config import EncoderConfig
from encoder_service.encoding import BatchEncoder
from encoder_service.info import encoder_info
from encoder_service.llm_client import LlmClient
from encoder_service.pipeline import EncoderPipeline
from encoder_service.service import EncoderService
from encoder_service.text_tower import TextTower, image_placeholder
from encoder_service.tiles import Tiler
from encoder_service.vision_tower import VisionTower

_log = logging.getLogger(__name__)

SERVICE_NAME: str = encoder_service_pb2.DESCRIPTOR.services_by_name["EncoderService"].full_name


@dataclass(frozen=True)
class _Loaded:
    """What is read at the start."""

    tiler: Tiler
    tower: VisionTower
    text_tower: TextTower | None
    placeholder: str | None  # of an image in a prompt, where there is a text tower
    info: encoder_service_pb2.GetEncoderInfoResponse


class EncoderServer:
    """One encoder service in this process. Started and stopped once, from one event loop."""

    def __init__(self, config: EncoderConfig) -> None:
        self._config = config
        self._health = health.aio.HealthServicer()
        self._admission = Admission(config.max_calls)
        self.port = 0  # the real one once `start` has returned
        self._server: grpc.aio.Server | None = None
        self._batcher: TileBatcher | None = None
        self._pipeline: EncoderPipeline | None = None
        self._llm: LlmClient | None = None

    async def start(self) -> int:
        """Load the checkpoint, bind the address and begin to serve.

        Returns:
            The port, chosen by the system if the address asked for port 0.

        Raises:
            ConfigError: this machine or the checkpoint cannot honour a setting.
            CheckpointError: the checkpoint cannot be read or used.
            UnavailableError: the address cannot be bound.
        """
        loaded = await asyncio.to_thread(self._load)
        self._batcher = TileBatcher(BatchEncoder(loaded.tower, loaded.text_tower), self._config.batch)
        self._pipeline = EncoderPipeline(
            loaded.tiler,
            self._batcher,
            self._config.image,
            threads=self._config.image_threads,
            max_tiles=self._config.batch.max_queued_tiles,
            text_tower=loaded.text_tower,
        )
        self._llm = LlmClient(self._config.llm) if self._config.llm is not None else None
        service = EncoderService(
            self._config, self._pipeline, loaded.info, self._admission, self._llm, placeholder=loaded.placeholder
        )
        self._server = grpc.aio.server(
            interceptors=[ErrorInterceptor(_log)],
            options=server_options(max_receive_bytes=self._config.max_request_bytes),
        )
        encoder_service_pb2_grpc.add_EncoderServiceServicer_to_server(service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        self._batcher.start()
        try:
            self.port = self._server.add_insecure_port(self._config.listen)
        except RuntimeError:
            await self.stop(None)
            raise UnavailableError(f"cannot listen on {self._config.listen}") from None
        await self._health.set(SERVICE_NAME, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()
        _log.info("serving %s on %s:%d", loaded.info.model, self._config.listen.rpartition(":")[0], self.port)
        return self.port

    async def stop(self, grace: float | None) -> None:
        """Report NOT_SERVING, refuse new calls, give those inside `grace` seconds to end, release everything."""
        await self._health.enter_graceful_shutdown()
        await self._admission.drain(grace)
        if self._server is not None:
            # What is left now has had its time; health watchers alone would never end.
            await self._server.stop(None)
        if self._llm is not None:
            await self._llm.close()
        if self._batcher is not None:
            await asyncio.to_thread(self._batcher.stop)
        if self._pipeline is not None:
            await asyncio.to_thread(self._pipeline.close)

    def _load(self) -> _Loaded:
        device = self._config.resolve_device()
        checkpoint = Checkpoint(self._config.model, revision=self._config.revision)
        tiler = Tiler(checkpoint)
        self._config.check_room_for_image(tiler.max_tiles)
        dtype = self._config.dtype or checkpoint.dtype_on(device)
        tower = VisionTower.load(checkpoint, dtype=dtype, device=device)
        text_tower, placeholder = None, None
        if self._config.text_tower is not None:
            text_tower = TextTower.load(
                self._config.text_tower, checkpoint, revision=self._config.text_tower_revision, device=device
            )
            placeholder = image_placeholder(checkpoint)
        return _Loaded(tiler, tower, text_tower, placeholder, encoder_info(self._config, checkpoint, tiler, tower))
