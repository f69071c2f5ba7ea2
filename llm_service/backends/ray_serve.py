"""Replicas on Ray Serve, which restarts and scales them."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from dataclasses import asdict, replace
from typing import Any

import ray
from numpy.typing import NDArray
from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.config import AutoscalingConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.schema import LoggingConfig
from visionsplit.errors import InternalError, OverloadedError, UnavailableError, VisionSplitError
from visionsplit.fairness import FairGate
from visionsplit.overload import Drain

from llm_service.backends.base import Backend
from llm_service.backends.packing import ImageMeta, pack, unpack
from llm_service.backends.quiet import quiet_ray
from llm_service.backends.ray_uses import ReplicaUses
from llm_service.config import RayConfig, ReplicaConfig
from llm_service.engines.base import EngineUse
from llm_service.job import Job, TokenEvent
from llm_service.replica import Replica, ReplicaInfo
from llm_service.token_buffer import TokenBuffer

_log = logging.getLogger(__name__)
_DEPLOYMENT = "LlmReplica"


class LlmReplica:
    """A replica as Ray Serve sees it."""

    def __init__(self, config: ReplicaConfig) -> None:
        self._replica = Replica(config)

    async def generate(
        self, job: Job, metas: tuple[ImageMeta, ...], *arrays: NDArray[Any]
    ) -> AsyncGenerator[TokenEvent, None]:
        events = self._replica.generate(replace(job, images=unpack(metas, arrays)))
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    def describe(self) -> ReplicaInfo:
        return self._replica.info

    def check_health(self) -> None:
        """Called by Serve, which replaces a replica that raises."""
        if not self._replica.healthy:
            raise RuntimeError("the decoding engine is not running")

    def record_routing_stats(self) -> dict[str, Any]:
        """Serve's hook for what a replica tells of itself; beside Serve, `ReplicaUses` asks for it."""
        return asdict(self._replica.use)

    def __del__(self) -> None:
        # Serve's hook for a replica that goes away; its constructor may have failed.
        if hasattr(self, "_replica"):
            self._replica.stop()


class RayServeBackend(Backend):
    """An application of one deployment, without Serve's own proxies."""

    name = "ray"

    def __init__(self, replica: ReplicaConfig, config: RayConfig, *, replicas: int, application: str) -> None:
        """`application` names this service on the cluster, where it must be the only one of that name."""
        self._replica = replica
        self._config = config
        self._num_replicas = replicas
        self._application = application
        self._deployed = False
        self._handle: Any = None
        self._owns_cluster = False
        # Serve's own queue is strictly in order; here callers take turns, and Serve gets what replicas have places for.
        self._gate = FairGate(replicas * config.max_ongoing_requests)
        self._drain = Drain()
        self._uses = ReplicaUses(application, _DEPLOYMENT)

    @property
    def max_calls(self) -> int:
        most = self._config.max_replicas or self._num_replicas
        return most * self._config.max_ongoing_requests + self._config.max_queued_requests

    async def start(self) -> ReplicaInfo:
        quiet_ray()
        # On this thread: elsewhere Ray complains that it cannot install its signal handler.
        self._connect()
        await asyncio.to_thread(self._deploy)
        info: ReplicaInfo = await self._handle.describe.remote()
        return info

    async def stop(self) -> None:
        self._handle = None
        await asyncio.to_thread(self._tear_down)

    async def generate(self, job: Job) -> AsyncGenerator[TokenEvent, None]:
        if self._handle is None:
            raise UnavailableError("the service is not running")
        buffer = TokenBuffer()
        reading = asyncio.create_task(self._read(self._handle, job, buffer))
        try:
            finished = False
            while not finished:
                event = await buffer.get()
                finished = event.finished
                yield event
        finally:
            reading.cancel()
            await asyncio.wait({reading})

    async def _read(self, handle: Any, job: Job, buffer: TokenBuffer) -> None:  # noqa: ANN401 - Ray has no types
        """One job through Serve, read as it comes: a caller that does not read keeps no place and little memory."""
        try:
            async with self._gate.place(job.caller):
                await self._pass(handle, job, buffer)
            self._drain.note(1, busy=len(self._gate) > 0)
            buffer.put(InternalError("a replica ended its answer too early"))  # nobody reads on after the last event
        except Exception as error:  # whatever it is, somebody waits for it
            buffer.put(self._translate(error))

    async def _pass(self, handle: Any, job: Job, buffer: TokenBuffer) -> None:  # noqa: ANN401
        metas, arrays = pack(job.images)
        stored = [ray.put(array) for array in arrays]
        stream = handle.options(stream=True, method_name="generate").remote(replace(job, images=()), metas, *stored)
        try:
            async for event in stream:
                buffer.put(event)
        finally:
            stream.cancel()

    async def num_replicas(self) -> int:
        try:
            status = await asyncio.to_thread(serve.status)
        except (RayError, RayServeException, ConnectionError) as error:
            _log.warning("Ray Serve does not answer: %s", error)
            return 0
        application = status.applications.get(self._application)
        deployment = application.deployments.get(_DEPLOYMENT) if application is not None else None
        replicas = int(deployment.replica_states.get("RUNNING", 0)) if deployment is not None else 0
        self._gate.resize(max(replicas, 1) * self._config.max_ongoing_requests)
        return replicas

    async def uses(self) -> Mapping[str, EngineUse]:
        return await self._uses.get()

    def _connect(self) -> None:
        if not ray.is_initialized():
            ray.init(
                address=self._config.address,
                include_dashboard=False if self._config.address == "local" else None,
                log_to_driver=False,
                logging_level="error",
                configure_logging=False,
            )
            self._owns_cluster = True

    def _deploy(self) -> None:
        quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
        serve.start(proxy_location="Disabled", logging_config=quiet)
        deployment = serve.deployment(LlmReplica, name=_DEPLOYMENT).options(
            max_ongoing_requests=self._config.max_ongoing_requests,
            max_queued_requests=self._config.max_queued_requests,
            health_check_period_s=self._config.health_check_period_s,
            ray_actor_options={"num_cpus": self._config.num_cpus, "num_gpus": self._config.num_gpus},
            logging_config=quiet,
            **self._scale(),
        )
        self._deployed = True
        try:
            self._handle = serve.run(deployment.bind(self._replica), name=self._application, route_prefix=None)
        except RuntimeError as error:
            _log.debug("the deployment failed", exc_info=True)
            raise UnavailableError(f"Ray Serve could not bring the replicas up: {_last_line(error)}") from error

    def _scale(self) -> dict[str, Any]:
        config = self._config
        if config.min_replicas is None:
            return {"num_replicas": self._num_replicas}
        return {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=config.min_replicas,
                max_replicas=config.max_replicas or self._num_replicas,
                target_ongoing_requests=config.target_ongoing_requests,
                upscale_delay_s=config.upscale_delay_s,
                downscale_delay_s=config.downscale_delay_s,
            )
        }

    def _translate(self, error: Exception) -> VisionSplitError:
        """The one place that turns Ray's errors into ours."""
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, VisionSplitError):
            return cause
        if isinstance(cause, BackPressureError):
            return OverloadedError("every replica is busy and the queue is full", self._drain.retry_after(1))
        if isinstance(cause, RayActorError | DeploymentUnavailableError):
            return UnavailableError("the replica that served the call was lost")
        _log.error("a replica failed", exc_info=error)
        return InternalError("a replica failed; the service's log has the details")

    def _tear_down(self) -> None:
        if self._deployed:
            serve.delete(self._application)
        if self._owns_cluster:
            # Serve goes with the cluster; shut down before it, it would make the raylet report lost actors.
            ray.shutdown()


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
