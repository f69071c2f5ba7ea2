"""A replica as a Ray Serve actor."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import asdict
from typing import Any

from ray import serve

from llm_service.config import ReplicaConfig
from llm_service.job import Job, ReplicaInfo, TokenEvent
from llm_service.replica.engines import MakeEngines
from llm_service.replica.replica import Replica

DEPLOYMENT = "LlmReplica"  # its name within the application


class LlmReplica:
    """The class that Ray Serve deploys."""

    def __init__(self, config: ReplicaConfig, version: str, make_engines: MakeEngines) -> None:
        """`version` is a hash of everything it was deployed with; see `RayApplication`."""
        self._replica = Replica(config, make_engines)
        self._version = version
        self._calls: set[asyncio.Task[Any]] = set()

    async def generate(self, job: Job) -> AsyncGenerator[str | TokenEvent, None]:
        """Yield the replica's name at once, and then the tokens."""
        yield serve.get_replica_context().replica_tag
        call = asyncio.current_task()
        assert call is not None
        self._calls.add(call)
        events = self._replica.generate(job)
        try:
            async for event in events:
                yield event
        finally:
            self._calls.discard(call)
            await events.aclose()

    async def take_over(self) -> str:
        """End all calls, because a new gateway has replaced the one that read them; return the deployed version."""
        for call in self._calls:
            call.cancel()
        return self._version

    def describe(self) -> ReplicaInfo:
        return self._replica.info

    def check_health(self) -> None:
        """Called by Ray Serve, which replaces a replica that raises."""
        if not self._replica.healthy:
            raise RuntimeError("the decoding engine is not running")

    def record_routing_stats(self) -> dict[str, Any]:
        """Ray Serve's hook for statistics of a replica; `ReplicaUses` calls it as well."""
        return asdict(self._replica.use)

    def __del__(self) -> None:
        # Ray Serve deletes a replica that it stops. The constructor may have failed before `_replica` was set.
        if hasattr(self, "_replica"):
            self._replica.stop()
