"""Computes the figures of a report from a run's answers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from training.dialogue.questions import Topic
from training.evaluation.conditions import UNCOMPRESSED
from training.evaluation.results import Answer, Fact, Run
from training.evaluation.statistics import Bootstrap, Floats, Interval, Tally, interval, ratio

CAPTION, CAPTION_WITH_PLACES = "caption F1", "caption F1 with places"
TOPICS = (*(topic.value for topic in Topic if topic is not Topic.CAPTION), CAPTION)
METRICS = (*TOPICS, CAPTION_WITH_PLACES)
AVERAGE = "average"  # over TOPICS: the caption counts once, by the F1 that ignores places


@dataclass(frozen=True)
class ConditionSummary:
    """The figures of one condition. Scores are shares, 0 to 1."""

    name: str
    vision_tokens: float  # at the language model's input, mean over the images, newlines included
    layer_tokens: float  # in a layer's cache, mean over the layers
    scores: Mapping[str, Interval]  # by metric, and AVERAGE
    retained: Interval | None  # AVERAGE as a share of the uncompressed run's; None without such a run


@dataclass(frozen=True)
class Difference:
    """One condition's scores minus another's on the same images."""

    condition: str
    against: str
    scores: Mapping[str, Interval]  # by metric, and AVERAGE


@dataclass(frozen=True)
class GridSummary:
    """The figures without compression for the images with one grid."""

    rows: int
    columns: int
    images: int
    figures: ConditionSummary


@dataclass(frozen=True)
class Summary:
    """All figures of a report."""

    facts: Mapping[str, Fact]
    images: int
    questions: int
    conditions: tuple[ConditionSummary, ...]
    differences: tuple[Difference, ...]
    grids: tuple[GridSummary, ...]


def summarise(run: Run, *, against: Sequence[str] = ()) -> Summary:
    """Compute scores, the retained share of the uncompressed ones, and each condition's difference to those `against`.

    Raises:
        ValueError: the run has no such condition, or not one question.
    """
    unknown = [name for name in against if name not in run.conditions]
    if unknown:
        raise ValueError(f"the run has no condition {unknown[0]!r}; it has {', '.join(run.conditions)}")
    if not run.answers:
        raise ValueError("the run has no answers")
    answers = {name: [answer for answer in run.answers if answer.condition == name] for name in run.conditions}
    images = sorted({answer.image for answer in run.answers})
    bootstrap = Bootstrap(len(images))
    rows = {name: _rows(bootstrap, tally(answers[name], images)) for name in run.conditions}
    uncompressed = rows.get(UNCOMPRESSED)
    return Summary(
        facts=run.facts,
        images=len(images),
        questions=len(answers[run.conditions[0]]),
        conditions=tuple(_condition(name, answers[name], rows[name], uncompressed) for name in run.conditions),
        differences=tuple(
            Difference(name, other, _intervals(rows[name] - rows[other]))
            for other in against
            for name in run.conditions
            if name != other
        ),
        grids=tuple(_by_grid(answers.get(UNCOMPRESSED, []))),
    )


def as_plain(summary: Summary) -> dict[str, Any]:
    """The summary as JSON values; figures that were not measured are None."""

    def plain(value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, dict):
            return {name: plain(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [plain(part) for part in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    result: dict[str, Any] = plain(asdict(summary))
    return result


def tally(answers: Sequence[Answer], images: Sequence[int]) -> Tally:
    """The answers of one condition, image by image in the order of `images`, by metric in the order of METRICS."""
    row = {image: index for index, image in enumerate(images)}
    sums, counts = np.zeros((len(images), len(METRICS))), np.zeros((len(images), len(METRICS)))  # [I, M]
    for answer in answers:
        for metric, score in _scores_of(answer):
            place = row[answer.image], METRICS.index(metric)
            sums[place] += score
            counts[place] += 1
    return Tally(sums, counts)


def _scores_of(answer: Answer) -> list[tuple[str, float]]:
    if answer.topic is not Topic.CAPTION:
        return [(answer.topic.value, answer.score)]
    places = math.nan if answer.score_with_places is None else answer.score_with_places
    return [(CAPTION, answer.score), (CAPTION_WITH_PLACES, places)]


def _rows(bootstrap: Bootstrap, scores: Tally) -> Floats:
    """Means by metric, and in the last column the average over the topics in the questions, [B + 1, M + 1]."""
    means = bootstrap.means(scores)  # [B + 1, M]
    asked = [index for index in range(len(TOPICS)) if scores.counts[:, index].any()]
    average = means[:, asked].mean(axis=1, keepdims=True)  # NaN if a draw lacks one of them
    return np.concatenate([means, average], axis=1)


def _intervals(rows: Floats) -> dict[str, Interval]:
    """The intervals by metric and of the average, from [B + 1, M + 1]."""
    return {name: interval(rows[:, index]) for index, name in enumerate((*METRICS, AVERAGE))}


def _condition(name: str, answers: Sequence[Answer], rows: Floats, uncompressed: Floats | None) -> ConditionSummary:
    return ConditionSummary(
        name=name,
        vision_tokens=_mean_over_images([(answer.image, answer.vision_tokens) for answer in answers]),
        layer_tokens=_mean_over_images([(answer.image, answer.layer_tokens) for answer in answers]),
        scores=_intervals(rows),
        retained=None if uncompressed is None else interval(ratio(rows[:, -1], uncompressed[:, -1])),
    )


def _mean_over_images(values: Sequence[tuple[int, float]]) -> float:
    """The mean of the images' means; NaN without images."""
    by_image: dict[int, list[float]] = {}
    for image, value in values:
        by_image.setdefault(image, []).append(value)
    means = [sum(own) / len(own) for own in by_image.values()]
    return sum(means) / len(means) if means else math.nan


def _by_grid(answers: Sequence[Answer]) -> list[GridSummary]:
    summaries = []
    for grid in sorted({answer.grid for answer in answers}):
        members = [answer for answer in answers if answer.grid == grid]
        images = sorted({answer.image for answer in members})
        rows = _rows(Bootstrap(len(images)), tally(members, images))
        summaries.append(GridSummary(*grid, len(images), _condition(UNCOMPRESSED, members, rows, None)))
    return summaries
