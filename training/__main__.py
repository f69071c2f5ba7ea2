"""Trains the model that ships: python -m training {tower,joint,all,export}."""

import argparse
import dataclasses
import os
from pathlib import Path

import torch

from training.data.batches import BatchConfig
from training.learning.optimizers import LearningRates
from training.learning.trainer import Stage, Trainer, TrainingConfig
from training.model.checkpoint import Architecture


def main() -> None:
    arguments = _parse()
    batch = BatchConfig(tiles=arguments.tiles)
    config = TrainingConfig(
        run=arguments.run,
        device=torch.device(arguments.device),
        workers=arguments.workers,
        compile=arguments.compile,
        batch=batch,
        architecture=Architecture(),
    )
    trainer = Trainer(config)
    for stage in _stages(arguments):
        trainer.run(stage)
    if arguments.command in ("export", "all"):
        trainer.export(arguments.model)


def _stages(arguments: argparse.Namespace) -> list[Stage]:
    """The vision tower first learns to see, then all learn to answer; what time there is, they share by their steps."""
    tower = Stage("tower", arguments.tower_steps, 0.0, False, LearningRates(vision=2e-3), 1.0)
    joint = Stage("joint", arguments.joint_steps, 0.0, True, LearningRates(vision=1e-3, text=2.5e-3), 0.25)
    stages = [stage for stage in (tower, joint) if arguments.command in (stage.name, "all")]
    steps = sum(stage.steps for stage in stages)
    return [dataclasses.replace(stage, minutes=arguments.minutes * stage.steps / steps) for stage in stages]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("command", choices=("tower", "joint", "all", "export"))
    parser.add_argument("--run", type=Path, default=Path("out/training/mini"), help="folder of state and log")
    parser.add_argument("--model", type=Path, default=Path("models/visionsplit-mini"), help="where to export to")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="processes that draw")
    parser.add_argument("--tiles", type=int, default=840, help="in a batch, all images together")
    parser.add_argument("--tower-steps", type=int, default=2000)
    parser.add_argument("--joint-steps", type=int, default=8000)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="for the stages asked for, at most")
    parser.add_argument("--compile", action="store_true", help="compile the layers (CUDA)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
