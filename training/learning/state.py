"""How far a run has come, and the file to take it up from."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class Progress:
    """What a run has done so far; the trainer counts it on."""

    done: list[str] = field(default_factory=list)  # names of the stages that are over
    seen: int = 0  # images, of all stages together
    batches: int = 0  # drawn, of all stages together: the number of the next one
    stage: str = ""  # the last one begun
    step: int = 0  # of that stage
    elapsed: float = 0.0  # seconds, of that stage

    def begin(self, stage: str) -> None:
        """Set out on a stage that the run has not begun."""
        self.stage, self.step, self.elapsed = stage, 0, 0.0

    def count_step(self, images: int, elapsed: float) -> None:
        """One more step, with so many images, after so many seconds in the stage."""
        self.step += 1
        self.seen += images
        self.elapsed = elapsed


@dataclass(frozen=True)
class SavedRun:
    """All that a run is taken up from."""

    progress: Progress
    model: dict[str, torch.Tensor]
    heads: dict[str, torch.Tensor]
    optimizers: dict[str, dict[str, Any]] | None  # None between stages

    def write(self, file: Path) -> None:
        """Put the state in the file's place at once, so that a run killed meanwhile keeps its last one."""
        weights = {"model": self.model, "heads": self.heads, "optimizers": self.optimizers}
        fresh = file.with_suffix(".new")
        torch.save({**dataclasses.asdict(self.progress), **weights}, fresh)
        fresh.replace(file)

    @classmethod
    def read(cls, file: Path) -> "SavedRun":
        """The state in a file, on the processor; only plain values and tensors are read, never code."""
        values: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        model, heads, optimizers = (values.pop(name) for name in ("model", "heads", "optimizers"))
        return cls(Progress(**values), model, heads, optimizers)
