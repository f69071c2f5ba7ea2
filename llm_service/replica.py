"""One copy of the language model: tokens in, tokens out. Knows neither grpc nor Ray."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from visionsplit.checkpoint import DTYPES, Checkpoint
from visionsplit.grid import Layout
from visionsplit.wire.vision_tokens import VisionTokens

from llm_service.config import ReplicaConfig
from llm_service.engines.base import Engine, EngineRequest, ImageInput
from llm_service.engines.continuous_batching import ContinuousBatchingEngine
from llm_service.generation_settings import GenerationSettings
from llm_service.job import Job, TokenEvent
from llm_service.layout import sequence_order
from llm_service.projector import Projector
from llm_service.text_model import load_text_model


@dataclass(frozen=True)
class ReplicaInfo:
    """What a replica runs."""

    engine: str
    device: str
    context_length: int  # most tokens of prompt and answer together


class Replica:
    """The language half of a checkpoint, loaded and decoding."""

    def __init__(self, config: ReplicaConfig) -> None:
        """Load the weights and start the engine. Blocks.

        Raises:
            CheckpointError: the checkpoint cannot be read.
        """
        checkpoint = Checkpoint(config.model, revision=config.revision)
        device = config.torch_device()
        dtype = DTYPES[config.dtype] if config.dtype is not None else checkpoint.dtype_on(device)
        self._projector = Projector(checkpoint, device=device, dtype=dtype)
        self._engine: Engine = ContinuousBatchingEngine(
            load_text_model(checkpoint, device=device, dtype=dtype),
            config.engine,
            image_token_id=checkpoint.config.image_token_id,
            end_ids=GenerationSettings.of(checkpoint).end_ids,
        )
        self._engine.start()
        self.info = ReplicaInfo(self._engine.name, str(device), self._engine.context_length)

    def stop(self) -> None:
        """End what runs with UnavailableError and release everything. Blocks."""
        self._engine.stop()

    @property
    def healthy(self) -> bool:
        return self._engine.healthy

    async def generate(self, job: Job) -> AsyncGenerator[TokenEvent, None]:
        """Tokens as they come; see `Engine.generate` for the errors. Closing the generator cancels the job."""
        request = await asyncio.to_thread(self._prepare, job)
        async with aclosing(self._engine.generate(request)) as events:
            async for event in events:
                yield event

    def _prepare(self, job: Job) -> EngineRequest:
        images = tuple(self._image(tokens, job.layout) for tokens in job.images)
        return EngineRequest(job.request_id, job.token_ids, images, job.sampling)

    def _image(self, tokens: VisionTokens, layout: Layout) -> ImageInput:
        order = sequence_order(tokens.grid, tokens.positions, layout)
        return ImageInput(_content_key(tokens, layout), len(order), partial(self._projector, tokens.features, order))


def _content_key(tokens: VisionTokens, layout: Layout) -> bytes:
    """Hash of everything that decides an image's embeddings and their order."""
    features = tokens.features
    digest = hashlib.blake2b(digest_size=32)
    digest.update(f"{tokens.grid} {layout} {features.data_type} {features.rows} {features.columns} ".encode())
    digest.update(features.data)
    digest.update(features.scales)
    digest.update(tokens.positions.tobytes())
    return digest.digest()
