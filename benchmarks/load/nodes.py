"""A Ray cluster on this machine, as docker-compose.yml has it: a head that runs no replica, and worker nodes."""

import contextlib
from typing import Any

import psutil
from ray.cluster_utils import Cluster

_OBJECT_STORE_BYTES = 80 * 2**20  # less than that Ray does not take
_CPUS = 1  # of a worker: room for one replica


class RayNodes:
    """A context manager. The nodes are children of this process."""

    def __init__(self, workers: int = 0) -> None:
        self._num_workers = workers
        self._cluster: Any = None
        self._raylets: list[psutil.Process] = []

    def __enter__(self) -> "RayNodes":
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        # Its own handlers of signals could be set in the main thread only, and nodes are added in others too.
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
        """One more worker node; its raylet, whose children are the node's workers."""
        node = self._cluster.add_node(num_cpus=_CPUS, object_store_memory=_OBJECT_STORE_BYTES)
        self._raylets.append(psutil.Process(node.all_processes["raylet"][0].process.pid))
        return self._raylets[-1]

    def replicas(self) -> list[psutil.Process]:
        """Of all nodes."""
        return [replica for raylet in self._raylets for replica in replicas_of(raylet)]

    def kill_replica(self) -> None:
        """One of them, which Serve then starts again."""
        for replica in self.replicas()[:1]:
            replica.kill()

    def replace_node(self) -> None:
        """Kill a worker node and start another."""
        kill_node(self._raylets.pop(0))
        self.add()


def replicas_of(parent: psutil.Process) -> list[psutil.Process]:
    """The replicas below a process, such as a node's raylet; none if it is gone."""
    if not parent.is_running():
        return []
    return [child for child in parent.children(recursive=True) if "LlmReplica" in " ".join(child.cmdline())]


def kill_node(raylet: psutil.Process) -> None:
    """As if the machine were gone: the node's own processes and everything that they had started."""
    for process in (raylet, *raylet.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
