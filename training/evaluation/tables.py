"""A summary as Markdown."""

import math
from collections.abc import Iterable, Sequence

from training.evaluation.conditions import UNCOMPRESSED
from training.evaluation.statistics import RESAMPLES, Interval
from training.evaluation.summary import AVERAGE, METRICS, GridSummary, Summary

_COLUMNS = (*METRICS, AVERAGE)


def report(summary: Summary) -> str:
    """All tables, each with a line that says what is in it."""
    parts = [_facts(summary), _scores(summary), _retained(summary)]
    parts += [_differences(summary, against) for against in dict.fromkeys(one.against for one in summary.differences)]
    if len(summary.grids) > 1:
        parts.append(_grids(summary.grids))
    return "\n\n".join(parts) + "\n"


def _facts(summary: Summary) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in summary.facts.items() if value is not None)
    return (
        f"{summary.images} held-out images, {summary.questions:,} questions under each of {len(summary.conditions)} "
        f"conditions.\n{facts}.\nIn parentheses: 95% intervals, {RESAMPLES:,} bootstrap draws of whole images, the "
        f'same draws for every condition.\n"{AVERAGE}" is the mean of the topics, the caption by its F1 without '
        "places.\nVision tokens are those that enter the language model for an image, newlines included."
    )


def _scores(summary: Summary) -> str:
    rows = [
        [one.name, _tokens(one.vision_tokens), *(_percent(one.scores[column]) for column in _COLUMNS)]
        for one in summary.conditions
    ]
    return "### Scores, %\n\n" + _table(["condition", "vision tokens", *_COLUMNS], rows)


def _retained(summary: Summary) -> str:
    full = next((one.vision_tokens for one in summary.conditions if one.name == UNCOMPRESSED), math.nan)
    rows = [
        [
            one.name,
            _tokens(one.vision_tokens),
            _number(100 * one.vision_tokens / full),
            _percent(one.scores[AVERAGE]),
            "–" if one.retained is None else _percent(one.retained),
        ]
        for one in summary.conditions
    ]
    header = ["condition", "vision tokens", "share of tokens, %", "average score, %", "share of the score retained, %"]
    return f"### What is retained of the score with every token\n\n{_table(header, rows)}"


def _differences(summary: Summary, against: str) -> str:
    rows = [
        [one.condition, *(_percent(one.scores[column], signed=True) for column in _COLUMNS)]
        for one in summary.differences
        if one.against == against
    ]
    return f"### Difference to {against}, percentage points, paired\n\n{_table(['condition', *_COLUMNS], rows)}"


def _grids(grids: Iterable[GridSummary]) -> str:
    rows = [
        [
            f"{grid.rows} x {grid.columns}",
            str(grid.images),
            _tokens(grid.figures.vision_tokens),
            *(_percent(grid.figures.scores[column]) for column in _COLUMNS),
        ]
        for grid in grids
    ]
    header = ["rows x columns of crops", "images", "vision tokens", *_COLUMNS]
    return f"### Scores with every token by grid, %\n\n{_table(header, rows)}"


def _percent(share: Interval, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    value, low, high = (_number(100 * number, sign) for number in (share.value, share.low, share.high))
    return value if low == "–" else f"{value} ({low} to {high})"


def _number(value: float, sign: str = "") -> str:
    return format(value, f"{sign}.1f") if math.isfinite(value) else "–"


def _tokens(value: float) -> str:
    return format(value, ",.0f") if math.isfinite(value) else "–"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, numbers to the right."""
    rule = ["---"] + ["--:"] * (len(header) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))
