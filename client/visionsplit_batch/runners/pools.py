"""How many encoders, replicas and readers a job starts on a Ray cluster, and what each of them may use."""

import math
import os
from dataclasses import dataclass, replace

from visionsplit_batch.runners.base import WorkKind
from visionsplit_ray.gpus import gpu_share

Size = int | tuple[int, int]  # of a pool: fixed, or least and most

_ROWS_OF_LLM = 64  # as many as a replica runs in one step
_ROWS_OF_ENCODER = 16  # some batches of tiles
_ROWS_OF_READER = 256  # calls that one Python process keeps up with


@dataclass(frozen=True)
class Pools:
    """The number of encoders and language models, and what each takes of a machine.

    With a least and a most, their number follows the work. Without GPUs, each computes with as many threads as it has
    CPUs here.

    Raises:
        ValueError: a number out of its range.
    """

    encoders: Size = 1
    llms: Size = 1
    encoder_cpus: float = 1.0
    encoder_gpus: float | None = None  # of one; 0.5 puts two on a GPU. None: see `on`
    llm_cpus: float | None = None  # None: see `on`
    llm_gpus: float | None = None
    reader_cpus: float = 0.25  # of an actor that reads rows and calls the services: mostly it waits
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
        """These with what was left open, for the GPUs that there are.

        Where the GPUs are enough, each worker gets one; otherwise as few as possible share one. GPUs that one pool was
        given by number are not given to the other. A language model without a GPU, where the job has the machine to
        itself, gets all cores: it has most of the work, and Ray only counts cores, so the encoders lose none.

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
        """What is started, of pools that leave nothing open."""
        parts = []
        if kind != "ask":
            parts.append(_workers(self.encoders, "encoder", self.encoder_gpus))
        if kind != "encode":
            parts.append(_workers(self.llms, "language model", self.llm_gpus))
        return " and ".join(parts)

    def in_flight(self, kind: WorkKind) -> int:
        """Rows whose calls run at one time: they fill every service, and let the next rows wait inside."""
        encoders, llms = self._most(kind)
        return _ROWS_OF_ENCODER * encoders + _ROWS_OF_LLM * llms

    def readers(self, kind: WorkKind) -> int:
        """Actors that read rows and call the services."""
        return math.ceil(self.in_flight(kind) / _ROWS_OF_READER)

    def cpus(self, kind: WorkKind) -> int:
        """CPUs that a cluster started for the job says to have: the machine's, or what the actors ask for, if that is
        more. Ray only counts CPUs; if there are fewer than the actors ask for, some are never started."""
        encoders, llms = self._most(kind)
        needed = self.readers(kind) * self.reader_cpus + encoders * self.encoder_cpus + llms * (self.llm_cpus or 0.0)
        return max(os.cpu_count() or 1, math.ceil(needed))

    def _most(self, kind: WorkKind) -> tuple[int, int]:
        """The most encoders and language models that such work uses."""
        return 0 if kind == "ask" else bounds(self.encoders)[1], 0 if kind == "encode" else bounds(self.llms)[1]


def bounds(size: Size) -> tuple[int, int]:
    """Least and most."""
    return (size, size) if isinstance(size, int) else size


def _workers(size: Size, name: str, gpus: float | None) -> str:
    least, most = bounds(size)
    count = f"{least}" if least == most else f"{least} to {most}"
    where = f"{gpus:.2g} GPU each" if gpus else "on the CPU"
    return f"{count} {name}{'' if most == 1 else 's'} ({where})"
