"""The services that a batch job starts on a Ray cluster: their settings, and the thread that runs their gateway."""

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from dataclasses import replace

import ray
from visionsplit.images import ImageLimits
from visionsplit.serving.background_loop import BackgroundLoop
from visionsplit.serving.process import process_watched
from visionsplit_client import (
    AsyncClient,
    ClientSecurity,
    HealthStatus,
    InvalidCompressionError,
    Retries,
    UnavailableError,
)

from encoder_service.compression import compose
from encoder_service.config import CacheLimits, EncoderConfig
from llm_service.config import BackendKind, EngineConfig, LlmConfig
from llm_service.server import LlmServer
from visionsplit_batch.runners.base import RunnerIdentity, Work, WorkKind
from visionsplit_batch.runners.pools import Pools, bounds
from visionsplit_batch.runners.services_identity import identify
from visionsplit_ray.encoder_pool import EncoderPool, PoolConfig

# Tokens of a step on a CPU. No user waits for the next token here, so steps may be long, and most prompts go in whole.
_STEP_TOKENS = 2048
_START_SECONDS = 3600.0  # a download of the checkpoint counts
_RETURN_SECONDS = 300.0  # until lost services are back
_LOOK_AGAIN_SECONDS = 0.5
_ANSWER_SECONDS = 5.0
_RETRIES = Retries(attempts=5, overloaded=True)
_GRPC_LOG = logging.getLogger("grpc._cython.cygrpc")


class RayServices:
    """The services of one job. Every method blocks.

    Args:
        pools: which leave nothing open, see `Pools.on`.
        host: where all services listen, on this machine; None for a cluster of several machines.
        application: names the language models on the cluster. A job that was killed leaves them there, and a job of the
            same name takes them over.
    """

    def __init__(
        self,
        work: Work,
        encoder: EncoderConfig | None,
        llm: LlmConfig | None,
        pools: Pools,
        *,
        host: str | None,
        application: str,
    ) -> None:
        self._work = work
        self._loop = BackgroundLoop("batch-services")
        self._watched = AsyncExitStack()
        self._grpc_level = _GRPC_LOG.level
        calls = pools.in_flight(work.kind)
        self._llm_host = host or ray.util.get_node_ip_address()
        self._llm: LlmServer | None = None
        if llm is not None:
            self._llm = LlmServer(_llm(llm, pools, calls, self._llm_host, application))
        least, most = bounds(pools.encoders)
        self._encoder = None if encoder is None else _encoder(encoder, pools, calls)
        self._pool_config = PoolConfig(
            least,
            most,
            num_cpus=pools.encoder_cpus,
            num_gpus=pools.encoder_gpus or 0.0,
            listen=() if host is None else (f"{host}:0",) * most,
        )
        self._pool: EncoderPool | None = None

    @property
    def llm(self) -> str | None:
        """The LLM service's address, once it is started."""
        return None if self._llm is None else f"{self._llm_host}:{self._llm.port}"

    @property
    def encoders(self) -> tuple[str, ...]:
        """The addresses of the encoders that serve, as far as known."""
        return () if self._pool is None else self._pool.addresses

    def start(self) -> None:
        """Start the services and wait until all of them serve.

        Raises:
            VisionSplitError, ValueError: a service cannot start.
        """
        # gRPC reports a caller that left while its status was sent, as an encoder does when an image cannot be decoded.
        # What matters about a call reaches its row. `stop` restores the level, which belongs to the whole process.
        _GRPC_LOG.setLevel(logging.CRITICAL)
        self._loop.start()
        if self._llm is not None:
            self._loop.run(self._llm.start())
            # As in the service's own process, see `EncoderActor`.
            self._loop.run(self._watched.enter_async_context(process_watched()))
        if self._encoder is not None:
            encoder = self._encoder if self.llm is None else replace(self._encoder, llm=(self.llm,))
            self._pool = EncoderPool(encoder, self._pool_config)
            self._pool.start(_START_SECONDS)

    def identity(self) -> RunnerIdentity:
        """What the services run.

        Raises:
            IncompatibleServicesError: they do not belong together.
        """
        return self._loop.run(
            identify(self._work, self.encoders, self.llm, security=ClientSecurity(), retries=_RETRIES)
        )

    def wait_until_serving(self) -> tuple[str, ...]:
        """Wait until encoders and the LLM service answer now, whatever was known of them before.

        Returns:
            The addresses of the encoders that answer.

        Raises:
            UnavailableError: they are not back in time.
        """
        deadline = time.monotonic() + _RETURN_SECONDS
        while (encoders := self._loop.run(self._serving())) is None:
            if time.monotonic() > deadline:
                raise UnavailableError(f"the services on the Ray cluster were lost for {_RETURN_SECONDS:g} seconds")
            time.sleep(_LOOK_AGAIN_SECONDS)
        return encoders

    def stop(self) -> None:
        """End the services at once."""
        try:
            if self._pool is not None:
                self._pool.stop(0.0)
            if self._llm is not None:
                self._loop.run(self._llm.stop(0.0))
                self._loop.run(self._watched.aclose())
        finally:
            self._loop.close()
            _GRPC_LOG.setLevel(self._grpc_level)

    async def _serving(self) -> tuple[str, ...] | None:
        """The encoders that answer; None while a service is missing."""
        encoders = () if self._pool is None else await asyncio.to_thread(self._pool.look)
        if not encoders and self._pool is not None:
            return None
        if self.llm is None:
            return encoders
        async with AsyncClient(self.llm) as client:  # health checks are the same for both services
            health = await client.health(timeout=_ANSWER_SECONDS)
        return encoders if health[self.llm] is HealthStatus.SERVING else None


def service_configs(
    model: str, kind: WorkKind, *, text_tower: str | None = None, max_image_pixels: int | None = None
) -> tuple[EncoderConfig | None, LlmConfig | None]:
    """The configurations of the services that work of this kind needs, for one checkpoint."""
    encoder = llm = None
    if kind != "ask":
        limits = ImageLimits() if max_image_pixels is None else ImageLimits(max_image_pixels)
        encoder = EncoderConfig(model, text_tower=text_tower, image=limits)
    if kind != "encode":
        llm = LlmConfig(model)
    return encoder, llm


def check_compression(work: Work, encoder: EncoderConfig) -> None:
    """
    Raises:
        InvalidCompressionError: there is no such compression, or it needs a text tower that the encoder does not have.
    """
    if work.compression is None:
        return
    if compose(work.compression).reads_text and encoder.text_tower is None:
        raise InvalidCompressionError(f"method {work.compression.method!r} reads the prompt; it needs a text tower")


def _encoder(config: EncoderConfig, pools: Pools, calls: int) -> EncoderConfig:
    """An encoder on the device that Ray gives its process. The job is its only caller, and has each image once."""
    return replace(
        config,
        device=config.device or ("cuda" if pools.encoder_gpus else "cpu"),
        caller_share=1.0,
        max_calls=max(config.max_calls, calls),
        cache=CacheLimits(memory_bytes=0),
    )


def _llm(config: LlmConfig, pools: Pools, calls: int, host: str, application: str) -> LlmConfig:
    device = config.device or ("cuda" if pools.llm_gpus else "cpu")
    least, most = bounds(pools.llms)
    return replace(
        config,
        listen=f"{host}:0",
        device=device,
        engine=_engine(config.engine, pools, device),
        backend=BackendKind.RAY,
        replicas=most if least == most else 1,
        ray=replace(
            config.ray,
            application=application,
            min_replicas=None if least == most else least,
            max_replicas=None if least == most else most,
            num_cpus=pools.llm_cpus or 1.0,
            num_gpus=pools.llm_gpus or 0.0,
        ),
        limits=replace(config.limits, caller_share=1.0, max_uploads=max(config.limits.max_uploads, calls)),
    )


def _engine(engine: EngineConfig, pools: Pools, device: str) -> EngineConfig:
    if device == "cpu" and engine.max_batch_tokens is None:
        engine = replace(engine, max_batch_tokens=_STEP_TOKENS)
    if device != "cpu" and pools.llm_gpus:  # the others on this GPU need memory too
        engine = replace(engine, memory_fraction=engine.memory_fraction * min(pools.llm_gpus, 1.0))
    return replace(engine, caller_share=1.0)
