"""A Ray cluster on this machine as in docker-compose.yml: a head without replicas, and worker nodes."""

import contextlib
from typing import Any

import psutil
from ray.cluster_utils import Cluster

_OBJECT_STORE_BYTES = 80 * 2**20  # the least that Ray accepts
_CPUS = 1  # of a worker, enough for one replica


class RayNodes:
    """A context manager for the cluster. The nodes are children of this process."""

    def __init__(self, workers: int = 0) -> None:
        self._num_workers = workers
        self._cluster: Any = None
        self._raylets: list[psutil.Process] = []

    def __enter__(self) -> "RayNodes":
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        # Ray's signal handlers could be set only in the main thread, and nodes are added in other threads too.
        self._cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
        for _ in range(self._num_workers):
            self.add()
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self) -> psutil.Process:
        """Add a worker node; return its raylet, whose children are the node's workers."""
        node = self._cluster.add_node(num_cpus=_CPUS, object_store_memory=_OBJECT_STORE_BYTES)
        self._raylets.append(psutil.Process(node.all_processes["raylet"][0].process.pid))
        return self._raylets[-1]

    def replicas(self) -> list[psutil.Process]:
        """The processes of all nodes."""
        return [replica for raylet in self._raylets for replica in replicas_of(raylet)]

    def kill_replica(self) -> None:
        """Kill one replica, which Ray Serve then starts again."""
        for replica in self.replicas()[:1]:
            replica.kill()

    def replace_node(self) -> None:
        """Kill a worker node and start another."""
        kill_node(self._raylets.pop(0))
        self.add()


def replicas_of(parent: psutil.Process) -> list[psutil.Process]:
    """The replicas below a process, such as a node's raylet; empty if it has ended."""
    if not parent.is_running():
        return []
    return [child for child in parent.children(recursive=True) if "LlmReplica" in " ".join(child.cmdline())]


def kill_node(raylet: psutil.Process) -> None:
    """Kill the node's processes and everything that they started, as if the machine had failed."""
    for process in (raylet, *raylet.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
