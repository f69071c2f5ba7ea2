"""Trains the model that ships: python -m training {tower,joint,places,all,export}."""

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from training.data.batches import BatchConfig
from training.learning.optimizers import LearningRates
from training.learning.trainer import Stage, Trainer, TrainingConfig
from training.model.checkpoint import Architecture


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = parser().parse_args(arguments)
    config = TrainingConfig(
        run=options.run,
        device=torch.device(options.device),
        workers=options.workers,
        compile=options.compile,
        autocast=options.autocast,
        validation_tiles=options.tiles,
        start=options.start,
        architecture=Architecture(),
    )
    trainer = Trainer(config)
    for stage in stages(options):
        trainer.run(stage)
    if options.command in ("export", "all"):
        trainer.export(options.model)


def stages(options: argparse.Namespace) -> list[Stage]:
    """The requested stages; a time limit is divided among them in proportion to their steps."""
    batch = BatchConfig(tiles=options.tiles)
    tower = Stage(
        "tower",
        options.tower_steps,
        0.0,
        answers=False,
        rates=LearningRates(vision=2e-3),
        tower_weight=1.0,
        batch=batch,
    )
    joint = Stage(
        "joint",
        options.joint_steps,
        0.0,
        answers=True,
        rates=LearningRates(vision=1e-3, text=2.5e-3),
        tower_weight=0.25,
        batch=batch,
    )
    places = Stage(
        "places",
        options.places_steps,
        0.0,
        answers=True,
        rates=LearningRates(vision=4e-4, text=8e-4, other=4e-4),
        tower_weight=0.25,
        batch=dataclasses.replace(
            batch, thumbnails_only=0.3, crops_only=0.15, words_only=0.15, shuffled_thumbnails=1.0
        ),
    )
    stages = [stage for stage in (tower, joint, places) if options.command in (stage.name, "all")]
    steps = sum(stage.steps for stage in stages)
    return [
        dataclasses.replace(
            stage, minutes=options.minutes * stage.steps / steps, rates=stage.rates.scaled(options.rates)
        )
        for stage in stages
    ]


def parser() -> argparse.ArgumentParser:
    """Create the command line's parser."""
    made = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    made.add_argument("command", choices=("tower", "joint", "places", "all", "export"))
    made.add_argument("--run", type=Path, default=Path("out/training/mini"), help="folder of state and log")
    made.add_argument("--model", type=Path, default=Path("models/visionsplit-mini"), help="where to export to")
    made.add_argument("--start", type=Path, help="checkpoint, or folder of a run, to begin a new run from")
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="processes that draw")
    made.add_argument("--tiles", type=int, default=840, help="in a batch, all images together")
    made.add_argument(
        "--rates", type=float, default=1.0, help="times the stages' learning rates; small batches want smaller ones"
    )
    made.add_argument("--tower-steps", type=int, default=2000)
    made.add_argument("--joint-steps", type=int, default=8000)
    made.add_argument("--places-steps", type=int, default=2000)
    made.add_argument("--minutes", type=float, default=float("inf"), help="for the stages asked for, at most")
    made.add_argument("--autocast", action=argparse.BooleanOptionalAction, default=True, help="bfloat16 products")
    made.add_argument("--compile", action="store_true", help="compile the layers (CUDA)")
    return made


if __name__ == "__main__":
    main()
