"""What each replica on Ray Serve has taken, asked beside Serve's way of requests.

Serve's handle asks any one replica, in the line of its requests. Replicas are actors with names, though, and what they
tell of themselves (`record_routing_stats`) they tell apart from requests.
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


class ReplicaUses:
    """Of one deployment. Used from one event loop."""

    def __init__(self, application: str, deployment: str) -> None:
        self._prefix = f"SERVE_REPLICA::{application}#{deployment}#"
        self._actors: dict[str, Any] = {}  # by name; Ray has no types
        self._asked: dict[str, asyncio.Future[Any]] = {}

    async def get(self) -> Mapping[str, EngineUse]:
        """By the end of the replica's name. One that does not answer within a second is left out.

        Raises:
            RayError: the cluster does not say which replicas there are.
        """
        self._actors = await asyncio.to_thread(self._find)
        for name in self._asked.keys() - self._actors.keys():
            self._asked.pop(name).cancel()
        for name, actor in self._actors.items():
            if name not in self._asked:  # one that hangs is not asked twice
                self._asked[name] = asyncio.wrap_future(actor.record_routing_stats.remote().future())
        if self._asked:
            await asyncio.wait(self._asked.values(), timeout=_PATIENCE_SECONDS)
        answers = {name: self._asked.pop(name) for name, asked in list(self._asked.items()) if asked.done()}
        return {name.removeprefix(self._prefix): use for name, asked in answers.items() if (use := _use_of(asked))}

    def _find(self) -> dict[str, Any]:
        """Blocks."""
        found: dict[str, Any] = {}
        for actor in list_named_actors(all_namespaces=True):
            name = actor["name"]
            if actor["namespace"] == _NAMESPACE and name.startswith(self._prefix):
                try:
                    found[name] = self._actors.get(name) or ray.get_actor(name, _NAMESPACE)
                except ValueError:
                    continue  # gone in the meantime
        return found


def _use_of(answer: asyncio.Future[Any]) -> EngineUse | None:
    """None where the replica was lost or is not ready."""
    if answer.cancelled() or isinstance(answer.exception(), RayError):
        return None
    told: dict[str, Any] = answer.result()
    return EngineUse(**told) if told else None
