"""One copy of the language model: tokens in, tokens out. Independent of gRPC and Ray."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

import numpy as np
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.token_order import original_offsets, tiles_of
from visionsplit.model.device import resolve_device
from visionsplit.model.dtypes import DTYPES
from visionsplit.options.layout import Layout
from visionsplit.telemetry.tracing import Tracing
from visionsplit.wire.vision_tokens import VisionTokens

from llm_service.config import ReplicaConfig
from llm_service.engines.base import Engine, EngineRequest, ImageInput, ImageRun
from llm_service.job import EngineUse, Job, ReplicaInfo, TokenEvent
from llm_service.replica.engines import MakeEngines, make_engines
from llm_service.replica.trace import ReplicaTrace


class Replica:
    """The loaded language half of a checkpoint and its decoding engines."""

    def __init__(self, config: ReplicaConfig, make_engines: MakeEngines = make_engines) -> None:
        """Load the weights and start the engines. Blocks.

        Raises:
            CheckpointError: the checkpoint cannot be read.
            ConfigError: the engine is not installed, or refuses a setting.
        """
        checkpoint = Checkpoint(config.model, revision=config.revision)
        device = resolve_device(config.device)
        dtype = DTYPES[config.dtype] if config.dtype is not None else checkpoint.dtype_on(device)
        self._family = checkpoint.family
        self._half = self._family.language_half(checkpoint, device=device, dtype=dtype)
        engines = make_engines(checkpoint, config.engine, device=device, dtype=dtype)
        self._engine, self._layerwise = engines.main, engines.layerwise
        self._engine.start()
        if self._layerwise is not None:
            self._layerwise.start()  # after the main engine, which sizes its cache by the free memory it finds
        self._tracing = Tracing("visionsplit-llm-replica", config.otlp_endpoint)
        self.info = ReplicaInfo(
            self._engine.name,
            str(device),
            self._engine.context_length,
            takes_layers_apart=self._layerwise is not None,
        )

    def stop(self) -> None:
        """End running jobs with UnavailableError and release all memory. Blocks."""
        self._engine.stop()
        if self._layerwise is not None:
            self._layerwise.stop()
        self._tracing.close()

    @property
    def use(self) -> EngineUse:
        """How much of the engine's memory is in use."""
        return self._engine.use

    @property
    def healthy(self) -> bool:
        return self._engine.healthy and (self._layerwise is None or self._layerwise.healthy)

    async def generate(self, job: Job) -> AsyncGenerator[TokenEvent, None]:
        """Tokens as they come; see `Engine.generate` for the errors. Closing the generator cancels the job."""
        with ReplicaTrace(self._tracing.tracer, job) as trace:
            engine = self._engine_for(job)
            request = await asyncio.to_thread(self._prepare, job)
            trace.prepared(request.num_prompt_tokens)
            async with aclosing(engine.generate(request)) as events:
                async for event in events:
                    trace.note(event)
                    yield event

    def _engine_for(self, job: Job) -> Engine:
        if not job.layer_by_layer:
            return self._engine
        assert self._layerwise is not None, "the gateway refuses such requests where there is no such engine"
        return self._layerwise

    def _prepare(self, job: Job) -> EngineRequest:
        images = tuple(self._image(tokens, job) for tokens in job.images)
        return EngineRequest(
            *(job.request_id, job.token_ids, images, job.sampling, job.pruning, job.caller, job.pause_seconds)
        )

    def _image(self, tokens: VisionTokens, job: Job) -> ImageInput:
        grid, positions = tokens.grid, tokens.positions
        orders = self._family.runs(grid, positions, job.layout)
        runs = [ImageRun.consecutive(len(order)) for order in orders]
        if job.position_ids == "original":
            originals = original_offsets(self._family, grid, positions, orders)
            runs = [ImageRun(len(offsets), span, offsets) for offsets, span in originals]
        order = np.concatenate(orders)  # [num_tokens]
        return ImageInput(
            _content_key(tokens, job.layout),
            tuple(runs),
            partial(self._half, tokens.features, grid, order),
            tiles_of(positions, order),
            tokens.quotas,
        )


def _content_key(tokens: VisionTokens, layout: Layout) -> bytes:
    """Hash of everything that decides an image's embeddings and their order."""
    features = tokens.features
    digest = hashlib.blake2b(digest_size=32)
    digest.update(f"{tokens.grid} {layout} {features.data_type} {features.rows} {features.columns} ".encode())
    digest.update(features.data)
    digest.update(features.scales)
    digest.update(tokens.positions.tobytes())
    return digest.digest()
