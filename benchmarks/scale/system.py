"""The benchmark's processes: encoders, gateways on one Ray cluster, and what each of them takes of the processors."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from benchmarks.load.system import Service, free_port
from benchmarks.scale.devices import DeviceTime
from tests.checkpoints import tiny_checkpoint

MAX_RUNNING = 4  # requests in one step of a replica
_OBJECT_STORE_BYTES = 128 * 2**20
_STARTING_TOGETHER = 2  # services: importing PyTorch takes a core for seconds
_CPUS = 64  # as far as Ray knows: replicas that sleep need few
_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]  # LLaVA-NeXT's five grids
# LLaVA-NeXT's tiles, and features of its width, so that the wire carries what it would. The weights are never used.
_VISION = {
    "hidden_size": 1024,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "image_size": 336,
}


def checkpoint(folder: Path) -> Path:
    """LLaVA-NeXT's geometry with random weights, in `folder`."""
    language = {"max_position_embeddings": 16384}
    return tiny_checkpoint(folder, pinpoints=_PINPOINTS, vision=_VISION, language=language)


@dataclass(frozen=True)
class Machine:
    """The processes of one run, and their devices' times."""

    model: Path
    tile: DeviceTime
    step: DeviceTime
    ray_address: str
    cluster: Any  # Ray has no types

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator["Machine"]:
        """A Ray cluster on this machine, without replicas, and a checkpoint in `folder`."""
        node = {"num_cpus": _CPUS, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        cluster = Cluster(initialize_head=True, head_node_args=node, shutdown_at_exit=False)
        try:
            tile, step = DeviceTime(folder / "tile"), DeviceTime(folder / "step")
            tile.set(0.0)
            step.set(0.0)
            yield cls(checkpoint(folder / "model"), tile, step, str(cluster.address), cluster)
        finally:
            cluster.shutdown()

    @contextmanager
    def gateways(
        self, number: int, *, replicas: int, ports: Sequence[int] = (), max_running: int = MAX_RUNNING
    ) -> Iterator[list[Service]]:
        """Gateways with `replicas` each, on `ports` or free ones."""
        addresses = [f"127.0.0.1:{port}" for port in ports[:number]] or _free_addresses(number)
        ray = ["--backend", "ray", "--ray-address", self.ray_address, "--replicas", str(replicas)]
        sizes = ["--max-running", str(max_running), "--max-ongoing-requests", str(16 * max_running)]
        with _running("llm", self.step, addresses, ["--model", str(self.model), *ray, *sizes]) as services:
            yield services

    @contextmanager
    def local_gateway(self, *, max_running: int) -> Iterator[list[Service]]:
        """A gateway with its only replica in its own process."""
        sizes = ["--max-running", str(max_running)]
        with _running("llm", self.step, _free_addresses(1), ["--model", str(self.model), *sizes]) as services:
            yield services

    @contextmanager
    def encoders(self, number: int, llms: Sequence[str]) -> Iterator[list[Service]]:
        """Encoders without caches, in front of LLM services."""
        options = ["--model", str(self.model), "--cache-bytes", "0", "--data-type", "bfloat16"]
        options += ["--max-batch-tiles", "5"]  # an image
        arguments = [*options, *(f"--llm={address}" for address in llms)]
        with _running("encoder", self.tile, _free_addresses(number), arguments) as services:
            yield services

    def ray_processes(self) -> list[psutil.Process]:
        """Ray's own processes and the replicas."""
        nodes = [
            info.process
            for node in self.cluster.list_all_nodes()
            for infos in node.all_processes.values()
            for info in infos
        ]
        own = [psutil.Process(process.pid) for process in nodes if process.poll() is None]
        return [*own, *(child for process in own for child in process.children(recursive=True))]


class ProcessorTimes:
    """Processor seconds by kind of process since `start`."""

    def __init__(self, machine: Machine, gateways: Sequence[Service], encoders: Sequence[Service]) -> None:
        kinds = [("gateway", gateways), ("encoder", encoders)]
        self._processes = [
            (kind, psutil.Process(service.process.pid))
            for kind, services in kinds
            for service in services
            if service.process
        ]
        self._processes += [(_kind(process), process) for process in machine.ray_processes()]
        self._processes.append(("client", psutil.Process()))
        self.start()

    def start(self) -> None:
        self._before = [_seconds(process) for _, process in self._processes]

    def since(self) -> Mapping[str, float]:
        """Seconds of all processes of each kind together."""
        spent: defaultdict[str, float] = defaultdict(float)
        for (kind, process), before in zip(self._processes, self._before, strict=True):
            spent[kind] += _seconds(process) - before
        return dict(spent)


def free_ports(number: int) -> list[int]:
    return [free_port() for _ in range(number)]


def _free_addresses(number: int) -> list[str]:
    return [f"127.0.0.1:{port}" for port in free_ports(number)]


@contextmanager
def _running(
    kind: str, time: DeviceTime, addresses: Sequence[str], arguments: Sequence[str]
) -> Iterator[list[Service]]:
    services = [
        Service("benchmarks.scale.serve", list(arguments), address, words=(kind, str(time.file)))
        for address in addresses
    ]
    with ExitStack() as stack:
        for first in range(0, len(services), _STARTING_TOGETHER):
            some = services[first : first + _STARTING_TOGETHER]
            for service in some:
                service.start()
                stack.callback(service.stop)
            for service in some:
                service.wait_until_serving()
        yield list(services)


def _kind(process: psutil.Process) -> str:
    try:
        return "replica" if "LlmReplica" in " ".join(process.cmdline()) else "Ray"
    except psutil.NoSuchProcess:
        return "Ray"


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
