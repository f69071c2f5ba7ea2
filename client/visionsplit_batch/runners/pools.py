"""How a job of its own spreads over a Ray cluster."""

import os
from dataclasses import dataclass

from visionsplit_batch.runners.base import WorkKind

Size = int | tuple[int, int]  # of a pool: fixed, or least and most


@dataclass(frozen=True)
class Pools:
    """Workers of each stage, and what each takes of a machine.

    A pool with a least and a most grows while work waits for it. Without GPUs, a service computes with as many threads
    as it has CPUs here.

    Raises:
        ValueError: a number out of its range.
    """

    encoders: Size = 1
    llms: Size = 1
    encoder_cpus: float = 1.0
    encoder_gpus: float = 0.0  # of one; 0.5 puts two on a GPU
    llm_cpus: float = 1.0
    llm_gpus: float = 0.0
    readers: int = 2  # tasks that read at once
    reader_cpus: float = 0.25  # they mostly wait
    unit_rows: int = 8  # that travel together: few, so that the next stage starts early
    # After so many rows the pools are started anew: Ray Data keeps statistics of each unit while a dataset runs, some
    # 8 KB a unit in the driver.
    rows_per_dataset: int = 100_000
    object_store_bytes: int | None = None  # of a cluster started for the job; None: by Ray, from the machine's memory

    def __post_init__(self) -> None:
        for name in ("encoders", "llms"):
            least, most = bounds(getattr(self, name))
            if not 1 <= least <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; a number from 1 on is needed, or least and most")
        for name in ("readers", "unit_rows", "rows_per_dataset"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; at least 1 is needed")
        for name in ("encoder_cpus", "encoder_gpus", "llm_cpus", "llm_gpus", "reader_cpus"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; 0 or more is needed")

    def cpus(self, kind: WorkKind) -> int:
        """CPUs that a cluster started for the job says to have: the machine's, or what the pools take, if that is
        more. Ray counts them and takes nobody's away; with fewer it would wait for others for ever."""
        needed = self.readers * self.reader_cpus
        needed += 0.0 if kind == "ask" else bounds(self.encoders)[1] * self.encoder_cpus
        needed += 0.0 if kind == "encode" else bounds(self.llms)[1] * self.llm_cpus
        return max(os.cpu_count() or 1, int(-(-needed // 1)))


def bounds(size: Size) -> tuple[int, int]:
    """Least and most."""
    return (size, size) if isinstance(size, int) else size
