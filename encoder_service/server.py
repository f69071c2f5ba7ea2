"""The encoder as a running server: what it loads, and how the parts are joined."""

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from visionsplit.command_line.settings import ConfigError
from visionsplit.errors import InvalidCompressionError
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.encoder_half import EncoderHalf
from visionsplit.families.tiler import Tiler
from visionsplit.model.device import resolve_device
from visionsplit.model.dtypes import DTYPES
from visionsplit.options.compression import Compression
from visionsplit.options.messages import data_type_from_proto
from visionsplit.receiving.receiver import ReceiveLimits, Receiver
from visionsplit.server.server import Opened, Service, ServiceServer
from visionsplit.v1 import encoder_service_pb2, encoder_service_pb2_grpc

from encoder_service.api.call_admission import Admission
from encoder_service.api.info import abilities_of, encoder_info
from encoder_service.api.request import RequestChecker
from encoder_service.api.service import EncoderService
from encoder_service.caching.key import encoder_identity
from encoder_service.caching.tokens import CacheCounts, TokenCache
from encoder_service.compression import Abilities, compose
from encoder_service.config import EncoderConfig
from encoder_service.device.batch_encoder import BatchEncoder
from encoder_service.device.text_tower import TextTower, image_placeholder
from encoder_service.device.tile_queue import TileBatcher
from encoder_service.llm.channel import LlmChannel
from encoder_service.llm.client import LlmClient
from encoder_service.llm.endpoint_selection import LlmEndpoint, LlmEndpoints
from encoder_service.metrics import EncoderMetrics
from encoder_service.pipeline.pipeline import EncoderPipeline

SERVICE_NAME: str = encoder_service_pb2.DESCRIPTOR.services_by_name["EncoderService"].full_name


class LoadHalf(Protocol):
    """The interface of `load_half`."""

    def __call__(self, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> EncoderHalf: ...


def load_half(checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> EncoderHalf:
    """Load the checkpoint's vision half by its family."""
    return checkpoint.family.encoder_half(checkpoint, dtype=dtype, device=device)


@dataclass(frozen=True)
class _Loaded:
    """What is read at the start."""

    tiler: Tiler
    half: EncoderHalf
    text_tower: TextTower | None
    placeholder: str | None  # of an image in a prompt, where there is a text tower
    info: encoder_service_pb2.GetEncoderInfoResponse
    cache: TokenCache | None
    abilities: Abilities


class EncoderServer(ServiceServer):
    """One encoder service in this process. Started and stopped once, from one event loop."""

    def __init__(self, config: EncoderConfig, llm: LlmEndpoints | None = None, load_half: LoadHalf = load_half) -> None:
        """
        Args:
            config: its settings.
            llm: the LLM services to use in place of those at the settings' addresses.
            load_half: loads the vision half.

        Raises:
            ConfigError: the default compression reads the prompt, and there is no text tower.
            InvalidCompressionError: the default compression names something that does not exist.
        """
        receiving = ReceiveLimits(
            max_bytes=config.max_request_bytes, seconds=config.receive_seconds, caller_share=config.caller_share
        )
        super().__init__(Service("encoder", SERVICE_NAME), config, receiving)
        self._config = config
        self._default_compression = _default_compression(config)
        self._admission = Admission(config.max_calls, caller_share=config.caller_share)
        self._batcher: TileBatcher | None = None
        self._pipeline: EncoderPipeline | None = None
        self._llm = llm
        self._load_half = load_half

    @property
    def cache_counts(self) -> CacheCounts | None:
        """What the cache of tokens has done and holds; None without one, and before the start."""
        return None if self._pipeline is None else self._pipeline.cache_counts

    @property
    def reserved_tiles(self) -> int:
        """Tiles of images from before their decoding until they are encoded."""
        return 0 if self._pipeline is None else self._pipeline.reserved_tiles

    async def open(self, receiver: Receiver) -> Opened:
        config = self._config
        if self._llm is None and config.llm:
            channels = [(address, LlmChannel(address, config.llm_security)) for address in config.llm]
            self._llm = LlmEndpoints([LlmEndpoint(address, LlmClient(channel)) for address, channel in channels])
        loaded = await asyncio.to_thread(self._load)
        metrics = EncoderMetrics(self.telemetry.registry)
        encoder = BatchEncoder(loaded.half, loaded.text_tower, metrics.batch_done)
        self._batcher = TileBatcher(encoder, config.batch)
        self._pipeline = EncoderPipeline(
            loaded.tiler,
            self._batcher,
            config.image,
            threads=config.image_threads,
            max_decoding_bytes=config.max_decoding_bytes,
            max_tiles=config.batch.max_queued_tiles,
            batch_tiles=config.batch.max_batch_tiles,
            caller_share=config.caller_share,
            cache=loaded.cache,
            text_tower=loaded.text_tower,
        )
        metrics.watch(self._pipeline)
        service = EncoderService(
            config=config,
            pipeline=self._pipeline,
            info=loaded.info,
            admission=self._admission,
            llm=self._llm,
            tracer=self.telemetry.tracer,
            metrics=metrics,
            callers=receiver.callers,
            checker=RequestChecker(
                max_images=config.max_images,
                default_compression=self._default_compression,
                default_data_type=data_type_from_proto(loaded.info.default_data_type),
                placeholder=loaded.placeholder,
                abilities=loaded.abilities,
            ),
        )
        self._batcher.start()
        add = partial(encoder_service_pb2_grpc.add_EncoderServiceServicer_to_server, service)
        return Opened(loaded.info.model, add, self._admission.gate, config.max_calls)

    async def release(self) -> None:
        if self._llm is not None:
            await self._llm.close()
        if self._batcher is not None:
            await asyncio.to_thread(self._batcher.stop)
        if self._pipeline is not None:
            await asyncio.to_thread(self._pipeline.close)

    def _load(self) -> _Loaded:
        config = self._config
        device = resolve_device(config.device)
        checkpoint = Checkpoint(config.model, revision=config.revision)
        tiler = checkpoint.family.tiler(checkpoint)
        _check_room_for_image(config, tiler.cutting.max_tiles)
        dtype = DTYPES[config.dtype] if config.dtype is not None else checkpoint.dtype_on(device)
        half = self._load_half(checkpoint, dtype=dtype, device=device)
        text_tower, placeholder = None, None
        if config.text_tower is not None:
            text_tower = TextTower.load(
                config.text_tower, checkpoint, revision=config.text_tower_revision, device=device
            )
            placeholder = image_placeholder(checkpoint)
        info = encoder_info(config, self._default_compression, checkpoint, tiler.cutting, half)
        cache = self._cache_of(half, info.format.encoder_fingerprint)
        abilities = abilities_of(checkpoint, half, text_tower=text_tower is not None)
        try:
            compose(self._default_compression, abilities)
        except InvalidCompressionError as error:
            raise ConfigError(
                f"the default compression does not fit checkpoint {checkpoint.name!r}: {error}"
            ) from error
        return _Loaded(tiler, half, text_tower, placeholder, info, cache, abilities)

    def _cache_of(self, half: EncoderHalf, fingerprint: str) -> TokenCache | None:
        if self._config.cache.off:
            return None
        return TokenCache(self._config.cache, encoder=encoder_identity(fingerprint, half), device=half.device)


def _default_compression(config: EncoderConfig) -> Compression:
    asked = Compression(config.default_method, config.retention_ratio)
    if compose(asked).reads_text and config.text_tower is None:
        raise ConfigError(f"method {asked.method!r} looks at the prompt; it needs a text_tower")
    return asked


def _check_room_for_image(config: EncoderConfig, most_tiles: int) -> None:
    """Refuse a queue in which an image of `most_tiles` tiles would never find room."""
    if config.batch.max_queued_tiles < most_tiles:
        raise ConfigError(
            f"max_queued_tiles is {config.batch.max_queued_tiles}; one image of this checkpoint takes {most_tiles}"
        )
