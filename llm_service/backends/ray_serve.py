"""A backend with replicas on Ray Serve, which restarts and scales them."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from visionsplit.errors import InternalError, OverloadedError, UnavailableError, VisionSplitError
from visionsplit.serving.fairness import FairGate
from visionsplit.serving.overload import ServiceRate

from llm_service.backends.base import Backend
from llm_service.backends.ray_application import RayApplication
from llm_service.backends.ray_cluster import connect
from llm_service.backends.ray_logging import quiet_ray
from llm_service.backends.ray_replica import DEPLOYMENT
from llm_service.backends.ray_uses import ReplicaUses
from llm_service.config import RayConfig
from llm_service.engines.token_buffer import TokenBuffer, read_ahead
from llm_service.job import EngineUse, Job, ReplicaInfo, TokenEvent

_log = logging.getLogger(__name__)
_LOST = "the replica that served the call was lost"


class RayServeBackend(Backend):
    """Passes jobs to the replicas of one Ray Serve application and reports their number and memory use."""

    name = "ray"

    def __init__(self, application: RayApplication, config: RayConfig, *, replicas: int) -> None:
        self._config = config
        self._num_replicas = replicas
        self._application = application
        self._handle: Any = None
        self._owns_cluster = False
        # Ray Serve's own queue is first-in first-out. This gate lets callers take turns, and admits only as many jobs
        # as the replicas can run.
        self._gate = FairGate(replicas * config.max_ongoing_requests)
        self._rate = ServiceRate()
        self._reading: dict[str, set[TokenBuffer]] = {}  # of calls, by the name of their replica
        self._uses = ReplicaUses(application.name, DEPLOYMENT)

    @property
    def max_calls(self) -> int:
        most = self._config.max_replicas or self._num_replicas
        return most * self._config.max_ongoing_requests + self._config.max_queued_requests

    async def start(self) -> ReplicaInfo:
        quiet_ray()
        # On this thread: on any other, Ray logs that it cannot install its signal handler.
        self._connect()
        self._handle = await self._bring_up()
        info: ReplicaInfo = await self._handle.describe.remote()
        return info

    async def _bring_up(self) -> Any:  # noqa: ANN401 - Ray has no types
        """The handle of replicas that were left running, or else of new ones."""
        handle = await asyncio.to_thread(self._application.find)
        # Called on this event loop, where Ray Serve then chooses replicas for all calls of the handle.
        if handle is not None and await self._application.take_over(handle):
            return handle
        return await asyncio.to_thread(self._application.deploy)

    async def stop(self) -> None:
        self._handle = None
        await asyncio.to_thread(self._tear_down)

    async def generate(self, job: Job) -> AsyncGenerator[TokenEvent, None]:
        if self._handle is None:
            raise UnavailableError("the service is not running")
        # At its end the stream has been cancelled and the place in the gate been returned.
        async with aclosing(read_ahead(partial(self._read, self._handle, job))) as events:
            async for event in events:
                yield event

    async def _read(self, handle: Any, job: Job, buffer: TokenBuffer) -> None:  # noqa: ANN401 - Ray has no types
        """Read one job's events from Ray Serve at their own pace, so that a slow caller keeps no replica's place."""
        try:
            async with self._gate.place(job.caller):
                await self._pass(handle, job, buffer)
            self._rate.record(1, busy=len(self._gate) > 0)
            buffer.put(InternalError("a replica ended its answer too early"))  # not read after a final event
        except Exception as error:  # whatever it is, `generate` waits for it in the buffer
            buffer.put(self._translate(error))

    async def _pass(self, handle: Any, job: Job, buffer: TokenBuffer) -> None:  # noqa: ANN401
        # By value, Ray Serve sends requests and tokens over gRPC. By reference, each token would be an object of Ray's
        # store, which costs five times the processor time here and more than twice in the replica.
        stream = handle.options(stream=True, method_name="generate", _by_reference=False).remote(job)
        try:
            replica: str = await anext(stream)
            readers = self._reading.setdefault(replica, set())
            readers.add(buffer)
            try:
                async for event in stream:
                    buffer.put(event)
            finally:
                readers.discard(buffer)
        finally:
            stream.cancel()  # ends the job on its replica; has no effect after the last event

    async def num_replicas(self) -> int:
        try:
            replicas = await asyncio.to_thread(self._application.num_running)
        except (RayError, RayServeException, ConnectionError) as error:
            _log.warning("Ray Serve does not answer: %s", error)
            return 0
        self._gate.resize(max(replicas, 1) * self._config.max_ongoing_requests)
        return replicas

    async def uses(self) -> Mapping[str, EngineUse]:
        before = set(self._reading)  # calls may reach a new replica after Ray has listed those that it knows
        uses = await self._uses.get()
        # A node that vanishes does not close its connections, and gRPC would notice after minutes. Ray knows sooner.
        for replica in before - self._uses.replicas:
            for buffer in self._reading.pop(replica):
                buffer.put(UnavailableError(_LOST))
        return uses

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        connect(self._config.address, include_dashboard=False if self._config.address == "local" else None)
        self._owns_cluster = True

    def _translate(self, error: Exception) -> VisionSplitError:
        """Translate Ray's exceptions; the one place that does."""
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, VisionSplitError):
            return cause
        if isinstance(cause, BackPressureError):
            return OverloadedError("every replica is busy and the queue is full", self._rate.retry_after(1))
        if isinstance(cause, RayActorError | DeploymentUnavailableError):
            return UnavailableError(_LOST)
        _log.error("a replica failed", exc_info=error)
        return InternalError("a replica failed; the service's log has the details")

    def _tear_down(self) -> None:
        self._application.take_away()
        if self._owns_cluster:
            # Shutting the cluster down ends Ray Serve too. With Serve shut down first, the raylet reports lost actors.
            ray.shutdown()
