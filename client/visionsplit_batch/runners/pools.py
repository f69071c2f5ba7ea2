"""The number of encoders, replicas and readers that a job starts on a Ray cluster, and the resources of each."""

import math
import os
from dataclasses import dataclass, replace

from visionsplit_batch.runners.base import WorkKind
from visionsplit_ray.gpus import gpu_share

Size = int | tuple[int, int]  # of a pool: fixed, or the least and the most

_ROWS_OF_LLM = 64  # the requests that a replica runs in one step
_ROWS_OF_ENCODER = 16  # they make several batches of tiles
_ROWS_OF_READER = 256  # calls that one Python process keeps up with


@dataclass(frozen=True)
class Pools:
    """The number of encoders and language models, and the resources that each takes of a machine.

    If a least and a most are given, the number follows the work. Without GPUs, each worker computes with as many
    threads as it has CPUs here.

    Raises:
        ValueError: a number is out of its range.
    """

    encoders: Size = 1
    llms: Size = 1
    encoder_cpus: float = 1.0
    encoder_gpus: float | None = None  # of one encoder; 0.5 puts two on a GPU. None: see `on`
    llm_cpus: float | None = None  # None: see `on`
    llm_gpus: float | None = None
    reader_cpus: float = 0.25  # of an actor that reads rows and calls the services; the actor mostly waits
    object_store_bytes: int | None = None  # of a cluster started for the job; None: by Ray, from the machine's memory

    def __post_init__(self) -> None:
        for name in ("encoders", "llms"):
            least, most = bounds(getattr(self, name))
            if not 1 <= least <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; a number from 1 on is needed, or least and most")
        for name in ("encoder_cpus", "encoder_gpus", "llm_cpus", "llm_gpus", "reader_cpus"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} is {value}; 0 or more is needed")

    def on(self, kind: WorkKind, *, gpus: float, alone: bool) -> "Pools":
        """These pools with the missing numbers set for the available GPUs.

        If there are enough GPUs, each worker gets one; otherwise as few workers as possible share one. GPUs that the
        user gave to one pool are not given to the other. A language model without a GPU gets all cores where the job
        has the machine to itself: it has most of the work, and Ray only counts cores, so the encoders lose none.

        Args:
            gpus: of the machine or the cluster.
            alone: whether the cluster is started for the job, on this machine.
        """
        workers, given = self._most(kind), (self.encoder_gpus, self.llm_gpus)
        left = gpus - sum(number * (share or 0.0) for number, share in zip(workers, given, strict=True))
        open_workers = sum(number for number, share in zip(workers, given, strict=True) if share is None)
        share = gpu_share(left, open_workers)
        llm_gpus = share if self.llm_gpus is None else self.llm_gpus
        llm_cpus = self.llm_cpus
        if llm_cpus is None:
            cores = max((os.cpu_count() or 1) / bounds(self.llms)[1], 1.0)
            llm_cpus = cores if alone and not llm_gpus else 1.0
        encoder_gpus = share if self.encoder_gpus is None else self.encoder_gpus
        return replace(self, encoder_gpus=encoder_gpus, llm_gpus=llm_gpus, llm_cpus=llm_cpus)

    def describe(self, kind: WorkKind) -> str:
        """What is started, in words; no number may be missing."""
        parts = []
        if kind != "ask":
            parts.append(_workers(self.encoders, "encoder", self.encoder_gpus))
        if kind != "encode":
            parts.append(_workers(self.llms, "language model", self.llm_gpus))
        return " and ".join(parts)

    def in_flight(self, kind: WorkKind) -> int:
        """The number of rows whose calls run at one time: they fill every service, and the next rows wait inside it."""
        encoders, llms = self._most(kind)
        return _ROWS_OF_ENCODER * encoders + _ROWS_OF_LLM * llms

    def readers(self, kind: WorkKind) -> int:
        """The number of actors that read rows and call the services."""
        return math.ceil(self.in_flight(kind) / _ROWS_OF_READER)

    def cpus(self, kind: WorkKind) -> int:
        """The CPUs that a cluster started for the job declares: the machine's, or as many as the actors request if that
        is more. Ray only counts CPUs; if fewer are declared than requested, some actors never start."""
        encoders, llms = self._most(kind)
        needed = self.readers(kind) * self.reader_cpus + encoders * self.encoder_cpus + llms * (self.llm_cpus or 0.0)
        return max(os.cpu_count() or 1, math.ceil(needed))

    def _most(self, kind: WorkKind) -> tuple[int, int]:
        """The most encoders and language models that such work uses."""
        return 0 if kind == "ask" else bounds(self.encoders)[1], 0 if kind == "encode" else bounds(self.llms)[1]


def bounds(size: Size) -> tuple[int, int]:
    """The least and the most."""
    return (size, size) if isinstance(size, int) else size


def _workers(size: Size, name: str, gpus: float | None) -> str:
    least, most = bounds(size)
    count = f"{least}" if least == most else f"{least} to {most}"
    where = f"{gpus:.2g} GPU each" if gpus else "on the CPU"
    return f"{count} {name}{'' if most == 1 else 's'} ({where})"
