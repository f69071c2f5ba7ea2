"""Measures the rows of one model: counts, and medians of times."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from benchmarks.efficiency.clock import Clock
from benchmarks.efficiency.conditions import Condition
from benchmarks.efficiency.pipeline import Outcome, Pipeline, Work
from benchmarks.selection_cost import wait_for

# The marks that delimit each stage.
STAGES: Mapping[str, tuple[str, str]] = {
    "tower": ("start", "encoded"),
    "scores": ("encoded", "scored"),
    "choice": ("scored", "chosen"),
    "projector": ("chosen", "projected"),
    "prefill": ("projected", "prefilled"),
    "decode": ("prefilled", "decoded"),
}


@dataclass(frozen=True)
class Row:
    """The cost of one image under one condition."""

    condition: Condition
    outcome: Outcome
    work: Work
    repeats: int  # images timed
    stage_seconds: Mapping[str, float]  # by STAGES, medians; "decode" is per token after the first
    image_seconds: float  # median of whole images, by the host's clock
    peak_bytes: int | None  # the most that PyTorch allocated on the GPU, weights included; None on a CPU


@dataclass(frozen=True)
class _Sample:
    """One image."""

    stage_seconds: Mapping[str, float]
    image_seconds: float
    peak_bytes: int | None


def measure(
    pipeline: Pipeline, conditions: Sequence[Condition], *, repeats: int, new_tokens: int, deadline: float
) -> list[Row]:
    """Measure rows in the order of the conditions; fewer images, or no row, if the time does not suffice.

    Rounds of one image under every condition, so that a machine that is slower for a while is so for all of them. In
    the first round each condition is also counted, which warms it up. The lowest ratios come first, being the quickest.

    Args:
        pipeline: the model.
        conditions: what to measure; the first has a row whatever the time.
        repeats: rounds.
        new_tokens: of each answer, two at least.
        deadline: of time.monotonic; nothing but the first row's first image begins after it.
    """
    counted: list[tuple[Outcome, Work] | None] = [None] * len(conditions)
    samples: list[list[_Sample]] = [[] for _ in conditions]
    order = [0, *sorted(range(1, len(conditions)), key=lambda index: conditions[index].ratio)]
    for _ in range(repeats):
        for index in order:
            if samples[0] and time.monotonic() > deadline:
                break
            if counted[index] is None:
                counted[index] = pipeline.count(conditions[index])
            samples[index].append(_sample(pipeline, conditions[index], new_tokens))
    facts = zip(conditions, counted, samples, strict=True)
    return [_row(condition, *found, own) for condition, found, own in facts if found is not None]


def _sample(pipeline: Pipeline, condition: Condition, new_tokens: int) -> _Sample:
    device = pipeline.device
    cuda = device.type == "cuda"
    clock = Clock(device)
    wait_for(device)
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    pipeline.run(condition, new_tokens, clock)
    wait_for(device)
    seconds = time.perf_counter() - started
    stages = {
        name: clock.seconds(*marks) / (new_tokens - 1 if name == "decode" else 1) for name, marks in STAGES.items()
    }
    return _Sample(stages, seconds, torch.cuda.max_memory_allocated(device) if cuda else None)


def _row(condition: Condition, outcome: Outcome, work: Work, samples: Sequence[_Sample]) -> Row:
    peaks = [sample.peak_bytes for sample in samples if sample.peak_bytes is not None]
    return Row(
        condition,
        outcome,
        work,
        len(samples),
        {name: statistics.median(sample.stage_seconds[name] for sample in samples) for name in STAGES},
        statistics.median(sample.image_seconds for sample in samples),
        max(peaks) if peaks else None,
    )
