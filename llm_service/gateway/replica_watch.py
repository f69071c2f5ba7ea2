"""Watches the replicas from outside: how many work, and how much of their memory is in use."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from visionsplit.serving.health import HealthService

from llm_service.backends.base import Backend
from llm_service.gateway.metrics import LlmMetrics

_log = logging.getLogger(__name__)
_PERIOD_SECONDS = 1.0


@dataclass(eq=False, kw_only=True)
class ReplicaWatch:
    """Checks the replicas once a second, for health and for the metrics. Used from one event loop."""

    backend: Backend  # where the replicas run
    metrics: LlmMetrics  # updated with the replicas' memory use
    health: HealthService  # updated only at changes; it must say "serving" when the watch starts
    set_replicas: Callable[[int], None]  # called after each check with the number of working replicas
    _tasks: list[asyncio.Task[None]] = field(default_factory=list, init=False)

    async def start(self) -> None:
        """Check once, then keep checking."""
        await self._count()
        # Separately, so that a replica that does not report its memory cannot delay the news that another is lost.
        self._tasks = [asyncio.create_task(self._follow_health()), asyncio.create_task(self._follow_use())]

    async def stop(self) -> None:
        """Stop checking. Has no effect before `start` or when called again."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _follow_health(self) -> None:
        """Set the health, now and after each check: serving if there is a healthy replica."""
        serving = True
        while True:
            await asyncio.sleep(_PERIOD_SECONDS)
            try:
                healthy = await self._count() > 0
            except Exception:  # the task must not end, or the health would never change again
                if serving:
                    _log.exception("the replicas cannot be counted")
                healthy = False
            if healthy is not serving:
                _log.log(
                    logging.INFO if healthy else logging.ERROR,
                    "serving again" if healthy else "not serving: no replica is healthy",
                )
                self.health.set(serving=healthy)
                serving = healthy

    async def _follow_use(self) -> None:
        known = True
        while True:
            try:
                self.metrics.use.replicas = await self.backend.uses()
                known = True
            except Exception:  # as above; values that are not known are left out
                if known:
                    _log.exception("what replicas have taken cannot be read")
                self.metrics.use.replicas = {}
                known = False
            await asyncio.sleep(_PERIOD_SECONDS)

    async def _count(self) -> int:
        replicas = await self.backend.num_replicas()
        self.metrics.replicas.set(replicas)
        self.set_replicas(replicas)
        return replicas
