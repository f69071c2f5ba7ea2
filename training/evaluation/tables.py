"""Formats a summary as Markdown."""

import math
from collections.abc import Iterable, Sequence

from training.evaluation.conditions import UNCOMPRESSED
from training.evaluation.statistics import RESAMPLES, Interval
from training.evaluation.summary import AVERAGE, METRICS, GridSummary, Summary

_COLUMNS = (*METRICS, AVERAGE)


def report(summary: Summary) -> str:
    """All tables, each with a line that explains it."""
    parts = [facts(summary), _scores(summary), _retained(summary)]
    parts += [_differences(summary, against) for against in dict.fromkeys(one.against for one in summary.differences)]
    if len(summary.grids) > 1:
        parts.append(_grids(summary.grids))
    return "\n\n".join(parts) + "\n"


def facts(summary: Summary) -> str:
    """What was scored, on which machine, and how to read the figures."""
    listed = ", ".join(f"{name} {value}" for name, value in summary.facts.items() if value is not None)
    return (
        f"{summary.images} held-out images, {summary.questions:,} questions under each of {len(summary.conditions)} "
        f"conditions.\n{listed}.\nIn parentheses: 95% intervals, {RESAMPLES:,} bootstrap draws of whole images, the "
        f'same draws for every condition.\n"{AVERAGE}" is the mean of the topics, the caption by its F1 without '
        "places.\nVision tokens are those that enter the language model for an image, newlines included; per layer: "
        "those that a layer has in its cache, mean over the layers, fewer where the model drops some. Shares are of "
        "these."
    )


def _scores(summary: Summary) -> str:
    rows = [
        [
            one.name,
            tokens(one.vision_tokens),
            tokens(one.layer_tokens),
            *(percent(one.scores[column]) for column in _COLUMNS),
        ]
        for one in summary.conditions
    ]
    return "### Scores, %\n\n" + table(["condition", "vision tokens", "per layer", *_COLUMNS], rows)


def _retained(summary: Summary) -> str:
    full = next((one.vision_tokens for one in summary.conditions if one.name == UNCOMPRESSED), math.nan)
    rows = [
        [
            one.name,
            tokens(one.vision_tokens),
            tokens(one.layer_tokens),
            number(100 * one.layer_tokens / full),
            percent(one.scores[AVERAGE]),
            "–" if one.retained is None else percent(one.retained),
        ]
        for one in summary.conditions
    ]
    header = [
        "condition",
        "vision tokens",
        "per layer",
        "share of tokens, %",
        "average score, %",
        "share of the score retained, %",
    ]
    return f"### What is retained of the score with every token\n\n{table(header, rows)}"


def _differences(summary: Summary, against: str) -> str:
    rows = [
        [one.condition, *(percent(one.scores[column], signed=True) for column in _COLUMNS)]
        for one in summary.differences
        if one.against == against
    ]
    return f"### Difference to {against}, percentage points, paired\n\n{table(['condition', *_COLUMNS], rows)}"


def _grids(grids: Iterable[GridSummary]) -> str:
    rows = [
        [
            f"{grid.rows} x {grid.columns}",
            str(grid.images),
            tokens(grid.figures.vision_tokens),
            *(percent(grid.figures.scores[column]) for column in _COLUMNS),
        ]
        for grid in grids
    ]
    header = ["rows x columns of crops", "images", "vision tokens", *_COLUMNS]
    return f"### Scores with every token by grid, %\n\n{table(header, rows)}"


def percent(share: Interval, *, signed: bool = False) -> str:
    """A share and its interval in percent."""
    sign = "+" if signed else ""
    value, low, high = (number(100 * one, sign) for one in (share.value, share.low, share.high))
    return value if low == "–" else f"{value} ({low} to {high})"


def number(value: float, sign: str = "") -> str:
    """One decimal; a dash for a value that was not measured."""
    return format(value, f"{sign}.1f") if math.isfinite(value) else "–"


def tokens(value: float) -> str:
    """A whole number; a dash for a value that was not measured."""
    return format(value, ",.0f") if math.isfinite(value) else "–"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with the first column left-aligned and numbers right-aligned."""
    rule = ["---"] + ["--:"] * (len(header) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))
