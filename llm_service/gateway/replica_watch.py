"""Watches the replicas from outside: how many work, and how much of their memory is in use."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from visionsplit.serving.health import HealthService

from llm_service.backends.base import Backend
from llm_service.gateway.metrics import LlmMetrics

_log = logging.getLogger(__name__)
_PERIOD_SECONDS = 1.0


class ReplicaWatch:
    """Checks the replicas once a second, for health and for the metrics. Used from one event loop."""

    def __init__(
        self,
        backend: Backend,
        metrics: LlmMetrics,
        health: HealthService,
        *,
        set_replicas: Callable[[int], None],
    ) -> None:
        """
        Args:
            backend: where the replicas run.
            metrics: updated with the replicas' memory use.
            health: updated only at changes; it must say "serving" when the watch starts.
            set_replicas: called after each check with the number of working replicas.
        """
        self._set_replicas = set_replicas
        self._backend = backend
        self._metrics = metrics
        self._health = health
        self._tasks: list[asyncio.Task[None]] = []

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
                self._health.set(serving=healthy)
                serving = healthy

    async def _follow_use(self) -> None:
        known = True
        while True:
            try:
                self._metrics.use.replicas = await self._backend.uses()
                known = True
            except Exception:  # as above; values that are not known are left out
                if known:
                    _log.exception("what replicas have taken cannot be read")
                self._metrics.use.replicas = {}
                known = False
            await asyncio.sleep(_PERIOD_SECONDS)

    async def _count(self) -> int:
        replicas = await self._backend.num_replicas()
        self._metrics.replicas.set(replicas)
        self._set_replicas(replicas)
        return replicas
