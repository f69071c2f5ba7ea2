"""A Ray cluster on this machine, as docker-compose.yml has it: a head that runs no replica, and worker nodes."""

import contextlib
from typing import Any

import psutil
from ray.cluster_utils import Cluster

_OBJECT_STORE_BYTES = 80 * 2**20  # less than that Ray does not take
_CPUS = 1  # of a worker: room for one replica


class RayNodes:
    """A context manager. The nodes are children of this process."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._cluster: Any = None
        self._nodes: list[Any] = []

    def __enter__(self) -> "RayNodes":
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(self._workers):
            self._add()
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def kill_replica(self) -> None:
        """One of them, which Serve then starts again."""
        for node in self._nodes:
            for process in _raylet(node).children(recursive=True):
                if "LlmReplica" in " ".join(process.cmdline()):
                    process.kill()
                    return

    def replace_node(self) -> None:
        """Kill a worker node with all its processes, as if its machine were gone, and start another."""
        raylet = _raylet(self._nodes.pop(0))
        for process in (raylet, *raylet.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._add()

    def _add(self) -> None:
        self._nodes.append(self._cluster.add_node(num_cpus=_CPUS, object_store_memory=_OBJECT_STORE_BYTES))


def _raylet(node: Any) -> psutil.Process:  # noqa: ANN401 - Ray has no types
    return psutil.Process(node.all_processes["raylet"][0].process.pid)
