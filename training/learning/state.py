"""The progress of a run, and the file from which it is resumed."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class Progress:
    """What a run has done so far; the trainer updates it."""

    done: list[str] = field(default_factory=list)  # names of the finished stages
    seen: int = 0  # images, of all stages together
    batches: int = 0  # drawn, of all stages together: the number of the next one
    stage: str = ""  # the last one that was started
    step: int = 0  # of that stage
    elapsed: float = 0.0  # seconds, of that stage

    def begin(self, stage: str) -> None:
        """Begin a stage that the run has not started."""
        self.stage, self.step, self.elapsed = stage, 0, 0.0

    def count_step(self, images: int, elapsed: float) -> None:
        """Count one more step, with its images, after this many seconds in the stage."""
        self.step += 1
        self.seen += images
        self.elapsed = elapsed


@dataclass(frozen=True)
class SavedRun:
    """Everything needed to resume a run."""

    progress: Progress
    model: dict[str, torch.Tensor]
    heads: dict[str, torch.Tensor]
    optimizers: dict[str, dict[str, Any]] | None  # None between stages

    def write(self, file: Path) -> None:
        """Replace the state file atomically, so that a run killed in the meantime keeps its previous one."""
        weights = {"model": self.model, "heads": self.heads, "optimizers": self.optimizers}
        fresh = file.with_suffix(".new")
        torch.save({**dataclasses.asdict(self.progress), **weights}, fresh)
        fresh.replace(file)

    @classmethod
    def read(cls, file: Path) -> "SavedRun":
        """Read the state from a file, on the CPU; only plain values and tensors are loaded, never code."""
        values: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        model, heads, optimizers = (values.pop(name) for name in ("model", "heads", "optimizers"))
        return cls(Progress(**values), model, heads, optimizers)
