"""Both services on a Ray cluster, run by one process."""

import asyncio
import os
from dataclasses import replace

import ray

from encoder_service.config import EncoderConfig
from llm_service.backends.ray_cluster import connect
from llm_service.backends.ray_logging import quiet_ray
from llm_service.config import LlmConfig
from llm_service.server import LlmServer
from visionsplit_ray.encoder_pool import EncoderPool, PoolConfig
from visionsplit_ray.gpus import gpu_share

_START_SECONDS = 3600.0  # `visionsplit up` ends this process sooner, by its own option


class RayServer(LlmServer):
    """The LLM service, with its replicas on Ray Serve, and encoders that send it their tokens."""

    def __init__(self, llm: LlmConfig, encoder: EncoderConfig, pool: PoolConfig) -> None:
        """
        Args:
            llm: with the Ray backend. GPUs that it does not give to a replica are shared with the encoders.
            pool: without GPUs, which are shared out once the cluster is known.
        """
        self._owns_cluster = False
        if not ray.is_initialized():
            _start_or_join(llm, pool)
            self._owns_cluster = True
        llm, pool = _with_gpus(llm, encoder, pool)
        super().__init__(llm)
        self._pool = EncoderPool(replace(encoder, llm=(llm.listen,)), pool)
        self._grace_seconds = encoder.grace_seconds

    async def serving(self) -> None:
        await super().serving()
        await asyncio.to_thread(self._pool.start, _START_SECONDS)

    async def ending(self) -> None:
        await asyncio.to_thread(self._pool.stop, self._grace_seconds)
        await super().ending()

    async def release(self) -> None:
        await super().release()
        if self._owns_cluster:
            self._owns_cluster = False
            await asyncio.to_thread(ray.shutdown)


def _start_or_join(llm: LlmConfig, pool: PoolConfig) -> None:
    quiet_ray()
    if llm.ray.address != "local":
        connect(llm.ray.address)
        return
    # Ray only counts CPUs; if there are fewer than the actors ask for, some are never started.
    needed = pool.most * pool.num_cpus + most_replicas(llm) * llm.ray.num_cpus
    connect("local", include_dashboard=False, num_cpus=max(os.cpu_count() or 1, int(-(-needed // 1))))


def _with_gpus(llm: LlmConfig, encoder: EncoderConfig, pool: PoolConfig) -> tuple[LlmConfig, PoolConfig]:
    """The GPUs of the cluster shared out, unless the configurations say which device or how many."""
    gpus = ray.cluster_resources().get("GPU", 0.0)
    if llm.ray.num_gpus is not None:
        gpus -= llm.ray.num_gpus * most_replicas(llm)
    wanting = (0 if encoder.device == "cpu" else pool.most) + (
        0 if llm.device == "cpu" or llm.ray.num_gpus is not None else most_replicas(llm)
    )
    share = gpu_share(gpus, wanting)
    if encoder.device != "cpu":
        pool = replace(pool, num_gpus=share)
    if llm.device != "cpu" and llm.ray.num_gpus is None:
        engine = replace(llm.engine, memory_fraction=llm.engine.memory_fraction * (share or 1.0))
        llm = replace(llm, engine=engine, ray=replace(llm.ray, num_gpus=share))
    return llm, pool


def most_replicas(llm: LlmConfig) -> int:
    """The replicas that the LLM service may have at one time."""
    return llm.ray.max_replicas or llm.replicas
