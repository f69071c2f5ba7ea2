"""A replica as an actor of Ray Serve."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import asdict, replace
from typing import Any

from numpy.typing import NDArray

from llm_service.backends.packing import ImageMeta, unpack
from llm_service.config import ReplicaConfig
from llm_service.job import Job, ReplicaInfo, TokenEvent
from llm_service.replica.replica import Replica

DEPLOYMENT = "LlmReplica"  # its name within the application


class LlmReplica:
    """A replica as Ray Serve sees it."""

    def __init__(self, config: ReplicaConfig, version: str) -> None:
        """`version` stands for all that it was deployed with; see `RayApplication`."""
        self._replica = Replica(config)
        self._version = version
        self._calls: set[asyncio.Task[Any]] = set()

    async def generate(
        self, job: Job, metas: tuple[ImageMeta, ...], *arrays: NDArray[Any]
    ) -> AsyncGenerator[TokenEvent, None]:
        call = asyncio.current_task()
        assert call is not None
        self._calls.add(call)
        events = self._replica.generate(replace(job, images=unpack(metas, arrays)))
        try:
            async for event in events:
                yield event
        finally:
            self._calls.discard(call)
            await events.aclose()

    async def take_over(self) -> str:
        """A new gateway is here: nobody awaits the calls of the last one, which end. What this was deployed as."""
        for call in self._calls:
            call.cancel()
        return self._version

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
