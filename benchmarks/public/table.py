"""Formats folders of results as the poster's table.

    python -m benchmarks.public.table out/public [--mme perception]

Markdown on standard output: a row for each folder that `benchmarks.public.run` filled, a column for each benchmark,
and the mean over the benchmarks of a score's share of the upper bound's. The mean takes in only benchmarks that both
have; how many is said where some are missing.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.public.rows import BENCHMARKS, MME_COGNITION, ROWS, UPPER_BOUND, Benchmark, Row
from benchmarks.public.tally import ALL

TOKENS_FILE = "tokens.json"
_MISSING = "–"


@dataclass(frozen=True)
class Scored:
    """The results in a row's folder."""

    row: Row
    scores: Mapping[str, float]  # by the benchmark's name
    tokens: Mapping[str, Any] | None  # means over all tasks


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.public.table", description="Results as a table.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mme", choices=("total", "perception"), default="total", help="what the MME column holds")
    options = parser.parse_args(arguments)
    columns = benchmarks(options.mme)
    rows = [scored for row in ROWS.values() if (scored := read(options.folder / row.name, row, columns)) is not None]
    if not rows:
        print(f"visionsplit: no results in {options.folder}", file=sys.stderr)
        return 1
    print(table(rows, columns))
    return 0


def benchmarks(mme: str) -> tuple[Benchmark, ...]:
    """The columns; MME as the sum of perception and cognition, or perception alone."""
    if mme == "total":
        return BENCHMARKS
    return tuple(
        Benchmark("MME (perception)", one.task, tuple(name for name in one.metrics if name != MME_COGNITION), one.scale)
        if MME_COGNITION in one.metrics
        else one
        for one in BENCHMARKS
    )


def result_files(folder: Path) -> list[Path]:
    """lmms-eval's results, oldest first."""
    return sorted(folder.glob("**/*_results.json"), key=lambda path: path.name)


def read(folder: Path, row: Row, columns: Sequence[Benchmark]) -> Scored | None:
    """A row's scores, for each task from its latest run; None without results."""
    files = result_files(folder)
    if not files:
        return None
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        found |= json.loads(file.read_text())["results"]
    scores = {one.name: score for one in columns if (score := _score(found.get(one.task), one)) is not None}
    tokens_file = folder / TOKENS_FILE
    tokens = json.loads(tokens_file.read_text())["tasks"].get(ALL) if tokens_file.exists() else None
    return Scored(row, scores, tokens)


def relative(scores: Mapping[str, float], upper: Mapping[str, float]) -> tuple[float, int] | None:
    """Mean share of the upper bound in percent, and the number of common benchmarks; None if there are none."""
    shares = [100 * scores[name] / upper[name] for name in scores if upper.get(name)]
    return (sum(shares) / len(shares), len(shares)) if shares else None


def table(rows: Sequence[Scored], columns: Sequence[Benchmark]) -> str:
    upper = next((one.scores for one in rows if one.row.name == UPPER_BOUND), {})
    heads = ["retention", "method", "LLM vision tokens", "mean over layers", *(one.name for one in columns), "average"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for one in rows:
        cells = [one.row.retention, one.row.label, *_tokens(one.tokens)]
        cells += [_number(one.scores.get(column.name)) for column in columns]
        lines.append("| " + " | ".join([*cells, _average(relative(one.scores, upper), len(columns))]) + " |")
    return "\n".join(lines)


def _score(metrics: Mapping[str, Any] | None, benchmark: Benchmark) -> float | None:
    """The sum of its metrics; lmms-eval writes "metric,filter" for each."""
    if metrics is None:
        return None
    values = {key.split(",")[0]: value for key, value in metrics.items() if not key.split(",")[0].endswith("_stderr")}
    wanted = [values.get(name) for name in benchmark.metrics]
    numbers = [float(value) for value in wanted if isinstance(value, int | float)]
    return benchmark.scale * sum(numbers) if len(numbers) == len(wanted) else None


def _tokens(tokens: Mapping[str, Any] | None) -> tuple[str, str]:
    if tokens is None:
        return _MISSING, _MISSING
    return _number(tokens["mean_llm_vision_tokens"]), _number(tokens["mean_vision_tokens_over_layers"])


def _number(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.1f}"


def _average(found: tuple[float, int] | None, columns: int) -> str:
    if found is None:
        return _MISSING
    mean, count = found
    return f"{mean:.1f}%" if count == columns else f"{mean:.1f}% (of {count})"


if __name__ == "__main__":
    sys.exit(main())
