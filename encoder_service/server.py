"""The encoder as a running server: loads, listens, drains, stops."""

import asyncio
import logging
from dataclasses import dataclass

import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from visionsplit.errors import UnavailableError
from visionsplit.model.checkpoint import Checkpoint
from visionsplit.receiving.receiver import ReceiveLimits, Receiver
from visionsplit.security.server import ServerSecurityStack
from visionsplit.serving.caller import Callers
from visionsplit.serving.health import HEALTH_SERVICE_NAME, HealthService
from visionsplit.serving.server_options import server_options
from visionsplit.telemetry.setup import Telemetry
from visionsplit.v1 import encoder_service_pb2, encoder_service_pb2_grpc
from visionsplit.wire.status import ErrorInterceptor
from visionsplit.wire.tensors import DataType

from encoder_service.admission import Admission
from encoder_service.api.info import encoder_info
from encoder_service.api.request import RequestChecker
from encoder_service.api.service import EncoderService
from encoder_service.caching.key import encoder_identity
from encoder_service.caching.tokens import CacheCounts, TokenCache
from encoder_service.config import EncoderConfig
from encoder_service.device.batch_encoder import BatchEncoder
from encoder_service.device.queue import TileBatcher
from encoder_service.device.text_tower import TextTower, image_placeholder
from encoder_service.device.vision_tower import VisionTower
from encoder_service.images.tiles import Tiler
from encoder_service.llm.client import LlmClient
from encoder_service.llm.endpoints import LlmGateway, LlmGateways
from encoder_service.metrics import EncoderMetrics
from encoder_service.pipeline.pipeline import EncoderPipeline

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
    cache: TokenCache | None


class EncoderServer:
    """One encoder service in this process. Started and stopped once, from one event loop."""

    def __init__(self, config: EncoderConfig) -> None:
        self._config = config
        self._health = HealthService(SERVICE_NAME)
        self._admission = Admission(config.max_calls, caller_share=config.caller_share)
        self.port = 0  # the real one once `start` has returned
        self._server: grpc.aio.Server | None = None
        self._receiver: Receiver | None = None
        self._batcher: TileBatcher | None = None
        self._pipeline: EncoderPipeline | None = None
        self._llm: LlmGateways | None = None
        self._telemetry = Telemetry("encoder", config.telemetry)

    @property
    def metrics_port(self) -> int | None:
        """Where metrics are served; None while they are not."""
        return self._telemetry.metrics_port

    @property
    def cache_counts(self) -> CacheCounts | None:
        """What the cache of tokens has done and holds; None without one, and before the start."""
        return None if self._pipeline is None else self._pipeline.cache_counts

    @property
    def reserved_tiles(self) -> int:
        """Tiles of images from before their decoding until they are encoded."""
        return 0 if self._pipeline is None else self._pipeline.reserved_tiles

    async def start(self) -> int:
        """Load the checkpoint, bind the address and begin to serve.

        Returns:
            The port, chosen by the system if the address asked for port 0.

        Raises:
            ConfigError: this machine or the checkpoint cannot honour a setting.
            CheckpointError: the checkpoint cannot be read or used.
            CredentialsError: a certificate, key or token cannot be used.
            UnavailableError: the address cannot be bound.
        """
        guard = ServerSecurityStack(self._config.security)
        if self._config.llm_addresses:
            self._llm = LlmGateways(
                [
                    LlmGateway(address, LlmClient(address, self._config.llm_security))
                    for address in self._config.llm_addresses
                ]
            )
        loaded = await asyncio.to_thread(self._load)
        metrics = EncoderMetrics(self._telemetry.registry)
        encoder = BatchEncoder(loaded.tower, loaded.text_tower, metrics.batch_done)
        self._batcher = TileBatcher(encoder, self._config.batch)
        self._pipeline = EncoderPipeline(
            loaded.tiler,
            self._batcher,
            self._config.image,
            threads=self._config.image_threads,
            max_decoding_bytes=self._config.max_decoding_bytes,
            max_tiles=self._config.batch.max_queued_tiles,
            batch_tiles=self._config.batch.max_batch_tiles,
            caller_share=self._config.caller_share,
            cache=loaded.cache,
            text_tower=loaded.text_tower,
        )
        metrics.watch(self._batcher, self._pipeline)
        receiver = self._receiver = Receiver(
            ReceiveLimits(
                max_bytes=self._config.max_request_bytes,
                seconds=self._config.receive_seconds,
                caller_share=self._config.caller_share,
            ),
            Callers(guard.tokens),
        )
        service = EncoderService(
            self._config,
            self._pipeline,
            loaded.info,
            self._admission,
            self._llm,
            self._telemetry,
            metrics,
            receiver.callers,
            RequestChecker(
                max_images=self._config.max_images,
                default_compression=self._config.default_compression,
                default_data_type=DataType(loaded.info.default_data_type),
                placeholder=loaded.placeholder,
            ),
        )
        self._server = grpc.aio.server(
            interceptors=[
                *self._telemetry.interceptors,
                *guard.interceptors,
                ErrorInterceptor(_log),
                receiver.interceptor,
            ],
            options=server_options(max_receive_bytes=self._config.max_request_bytes, max_calls=self._config.max_calls),
        )
        encoder_service_pb2_grpc.add_EncoderServiceServicer_to_server(service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE_NAME, HEALTH_SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        self._batcher.start()
        receiver.start()
        try:
            self._telemetry.serve_metrics()
            self.port = guard.bind(self._server, self._config.listen)
        except UnavailableError:
            await self.stop(None)
            raise
        self._health.set(serving=True)
        await self._server.start()
        _log.info("serving %s on %s:%d", loaded.info.model, self._config.listen.rpartition(":")[0], self.port)
        return self.port

    async def stop(self, grace: float | None) -> None:
        """Report NOT_SERVING, refuse new calls, give those inside `grace` seconds to end, release everything."""
        self._health.shut_down()
        await self._admission.gate.drain(grace)
        if self._server is not None:
            # What is left now has had its time; health watchers alone would never end.
            await self._server.stop(None)
        if self._receiver is not None:
            await self._receiver.close()
        if self._llm is not None:
            await self._llm.close()
        if self._batcher is not None:
            await asyncio.to_thread(self._batcher.stop)
        if self._pipeline is not None:
            await asyncio.to_thread(self._pipeline.close)
        await asyncio.to_thread(self._telemetry.close)

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
        info = encoder_info(self._config, checkpoint, tiler, tower)
        cache = self._cache_of(checkpoint, tower, info.format.encoder_fingerprint)
        return _Loaded(tiler, tower, text_tower, placeholder, info, cache)

    def _cache_of(self, checkpoint: Checkpoint, tower: VisionTower, fingerprint: str) -> TokenCache | None:
        if self._config.cache.off:
            return None
        identity = encoder_identity(fingerprint, checkpoint.config.vision_config.to_dict(), tower)
        return TokenCache(self._config.cache, encoder=identity, device=tower.device)
