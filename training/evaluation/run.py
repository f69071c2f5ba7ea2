"""Runs one evaluation in this process, from a checkpoint's folder to a run's answers."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Never

import torch
import transformers
from tqdm import tqdm
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.model.dtypes import DTYPES

from training.dialogue.held_out import Example, held_out
from training.dialogue.questions import Topic
from training.evaluation.conditions import Condition
from training.evaluation.in_process import InProcessModel, Settings
from training.evaluation.results import Answer, Fact, Run

BATCH = {"cpu": 24, "cuda": 768}  # questions answered at once, by device


def in_process_settings(
    *,
    device: str | None = None,
    dtype: str = "float32",
    batch: int | None = None,
    workers: int | None = None,
    max_new_tokens: int = 192,
) -> Settings:
    """Choose the settings that were not given to suit this machine.

    Raises:
        ValueError: the device is not there.
    """
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("PyTorch finds no GPU on this machine")
    return Settings(
        device=chosen,
        dtype=DTYPES[dtype],
        batch=batch or BATCH[chosen.type],
        workers=min(8, (os.cpu_count() or 1) - 1) if workers is None else workers,
        max_new_tokens=max_new_tokens,
    )


def evaluate(model: str, conditions: Sequence[Condition], settings: Settings, *, images: int, first: int = 0) -> Run:
    """Ask every question about some held-out images under every condition; progress goes to stderr.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        InvalidCompressionError, InvalidPruningError: a condition names something that does not exist.
    """
    checkpoint = Checkpoint(model)
    examples = examples_of(range(first, first + images), checkpoint.config.vision_config.image_size)
    loaded = InProcessModel(model, conditions, settings)
    started = time.monotonic()
    with progress(examples, conditions) as bar:
        answers = list(loaded.answers(examples, bar.update))
    device = settings.device
    facts: dict[str, Fact] = {
        "model": checkpoint.name,
        "vision weights": checkpoint.encoder_fingerprint(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "data type": str(settings.dtype).removeprefix("torch."),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "first image": first,
        "most new tokens": settings.max_new_tokens,
        "seconds": round(time.monotonic() - started, 1),
    }
    return ordered_run(facts, conditions, answers)


def examples_of(numbers: Sequence[int], tile: int) -> list[Example]:
    """Held-out images by number, drawn for tiles of a size in pixels."""
    return [held_out(number, tile) for number in numbers]


def progress(examples: Sequence[Example], conditions: Sequence[Condition]) -> "tqdm[Never]":
    """A progress bar over all questions under all conditions."""
    questions = sum(len(example.questions) for example in examples)
    return tqdm(total=questions * len(conditions), unit=" questions", file=sys.stderr, smoothing=0.05)


def ordered_run(facts: Mapping[str, Fact], conditions: Sequence[Condition], answers: Sequence[Answer]) -> Run:
    """The answers sorted by condition, image and topic."""
    names = [condition.name for condition in conditions]
    topics = list(Topic)
    ordered = sorted(answers, key=lambda one: (names.index(one.condition), one.image, topics.index(one.topic)))
    return Run(facts, tuple(names), tuple(ordered))
