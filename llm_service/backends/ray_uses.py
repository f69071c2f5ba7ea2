"""Asks each Ray Serve replica for its memory use, apart from the queue of requests.

A Ray Serve handle sends a call to an arbitrary replica, behind waiting requests. Replicas are named actors, though, and
answer `record_routing_stats` concurrently with requests, so this module calls the actors themselves.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import list_named_actors

from llm_service.job import EngineUse

_NAMESPACE = "serve"
_PATIENCE_SECONDS = 1.0


def replica_prefix(application: str, deployment: str) -> str:
    """The beginning of the names of a deployment's actors."""
    return f"SERVE_REPLICA::{application}#{deployment}#"


def replica_names(prefix: str) -> list[str]:
    """The actors whose names begin so: running, starting and stopping replicas. Blocks."""
    actors = list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in actors if actor["namespace"] == _NAMESPACE and actor["name"].startswith(prefix)]


class ReplicaUses:
    """The memory use of one deployment's replicas. Used from one event loop."""

    def __init__(self, application: str, deployment: str) -> None:
        self._prefix = replica_prefix(application, deployment)
        self._actors: dict[str, Any] = {}  # by name; Ray has no types
        self._asked: dict[str, asyncio.Future[Any]] = {}

    @property
    def replicas(self) -> set[str]:
        """The last parts of the names of all replicas that Ray knew the last time, whether they answered or not."""
        return {name.removeprefix(self._prefix) for name in self._actors}

    async def get(self) -> Mapping[str, EngineUse]:
        """Memory use by the last part of the replica's name. Replicas that do not answer in a second are left out.

        Raises:
            RayError: the cluster does not list its actors.
        """
        self._actors = await asyncio.to_thread(self._find)
        for name in self._asked.keys() - self._actors.keys():
            self._asked.pop(name).cancel()
        for name, actor in self._actors.items():
            if name not in self._asked:  # a replica that hangs has one question pending, not one more each time
                self._asked[name] = asyncio.wrap_future(actor.record_routing_stats.remote().future())
        if self._asked:
            await asyncio.wait(self._asked.values(), timeout=_PATIENCE_SECONDS)
        answers = {name: self._asked.pop(name) for name, asked in list(self._asked.items()) if asked.done()}
        return {name.removeprefix(self._prefix): use for name, asked in answers.items() if (use := _use_of(asked))}

    def _find(self) -> dict[str, Any]:
        """The deployment's actors by name. Blocks."""
        found: dict[str, Any] = {}
        for name in replica_names(self._prefix):
            try:
                found[name] = self._actors.get(name) or ray.get_actor(name, _NAMESPACE)
            except ValueError:
                continue  # the actor has ended since the listing
        return found


def _use_of(answer: asyncio.Future[Any]) -> EngineUse | None:
    """The answer of one replica; None if the replica was lost or is not ready."""
    if answer.cancelled() or isinstance(answer.exception(), RayError):
        return None
    told: dict[str, Any] = answer.result()
    return EngineUse(**told) if told else None
