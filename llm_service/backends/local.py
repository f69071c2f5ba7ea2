"""A backend with one replica in the gateway's own process."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from visionsplit.errors import UnavailableError

from llm_service.backends.base import Backend
from llm_service.config import ReplicaConfig
from llm_service.job import EngineUse, Job, ReplicaInfo, TokenEvent
from llm_service.replica.engines import MakeEngines
from llm_service.replica.replica import Replica


class LocalBackend(Backend):
    """Runs one replica in this process, for a single device and for tests."""

    name = "local"

    def __init__(self, config: ReplicaConfig, make_engines: MakeEngines) -> None:
        self._config = config
        self._make_engines = make_engines
        self._replica: Replica | None = None

    async def start(self) -> ReplicaInfo:
        self._replica = await asyncio.to_thread(Replica, self._config, self._make_engines)
        return self._replica.info

    async def stop(self) -> None:
        if self._replica is not None:
            await asyncio.to_thread(self._replica.stop)
            self._replica = None

    async def generate(self, job: Job) -> AsyncGenerator[TokenEvent, None]:
        if self._replica is None:
            raise UnavailableError("the service is not running")
        async with aclosing(self._replica.generate(job)) as events:
            async for event in events:
                yield event

    @property
    def max_calls(self) -> int:
        return 2 * self._config.engine.max_running + self._config.engine.max_waiting

    async def uses(self) -> Mapping[str, EngineUse]:
        return {} if self._replica is None else {self.name: self._replica.use}

    async def num_replicas(self) -> int:
        return int(self._replica is not None and self._replica.healthy)
