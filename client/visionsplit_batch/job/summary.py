"""The report at a job's start and end, for people and for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from visionsplit.visible import counted

from visionsplit_batch.job.job import Counts, JobSummary
from visionsplit_batch.rows.fields import plain_text
from visionsplit_batch.rows.left_out import LeftOut, in_words

_LONG_START = 3.0  # seconds until the first row was done, from which the summary mentions them
_BUSY = 0.5  # share of the time from which a stage is said to hold up the others


def input_text(settings: Mapping[str, Any], rows: int) -> str:
    """The input's format and the columns that are read from it.

    Args:
        settings: the source's settings.
        rows: the number of rows.
    """
    text = f"input: {counted(rows, 'row')} of the format {settings['format']}"
    columns = settings.get("columns")
    if not columns:
        return text
    words = [f"images from {columns['image']!r}"] if columns["image"] else []
    words.append(f"ids from {columns['id']!r}" if columns["id"] else "ids are the rows' places")
    words += [f"prompts from {columns['prompt']!r}"] if columns["prompt"] else []
    return f"{text}; columns: {', '.join(words)}"


def input_json(settings: Mapping[str, Any], rows: int) -> str:
    """The first event."""
    return json.dumps(
        {"event": "input", "format": settings["format"], "rows": rows, "columns": settings.get("columns")}
    )


def summary_json(summary: JobSummary, shares: Mapping[str, float], left_out: Sequence[LeftOut]) -> str:
    """The last event."""
    held = summary.held
    totals = {"parts": held.parts, "written": held.written, "failed_rows": held.failed}
    reasons = {one.reason: {"count": one.count, "names": one.names} for one in left_out}
    return json.dumps(
        {"event": "summary", **counts_json(summary.counts), **totals, "left_out": reasons, "stages": shares}
    )


def counts_json(counts: Counts) -> dict[str, Any]:
    return {**asdict(counts), "rows_per_second": counts.rows_per_second, "seconds_left": counts.seconds_left}


def summary_text(summary: JobSummary, shares: Mapping[str, float], output: str) -> str:
    """A summary of the run in a few lines."""
    counts, held = summary.counts, summary.held
    lines = [f"{counted(counts.ended, 'image')} in {duration(counts.seconds)}, {counts.rows_per_second:.2f} images/s"]
    if not counts.ended:
        lines[0] = "nothing was left to do"
    if counts.before:
        lines[0] += f"; {counts.before} {'was' if counts.before == 1 else 'were'} done before"
    if counts.tokens_before:
        kept = counts.tokens_after / counts.tokens_before
        lines.append(f"{counts.tokens_after} of {counts.tokens_before} vision tokens kept ({kept:.1%})")
    if shares and counts.ended:
        lines.append(_stages(counts, shares))
    lines.append(f"{counted(held.written, 'row')} in {counted(held.parts, 'part')} in {plain_text(output)}")
    if held.failed:
        lines.append(f"{counted(held.failed, 'row')} failed, see errors.jsonl there; --retry-errors tries again")
    return "\n".join(lines)


def left_out_text(left_out: Sequence[LeftOut]) -> str:
    """The files that were left out of the input, in one line."""
    return f"left out of the input: {in_words(left_out)}"


def duration(seconds: float | None) -> str:
    """A duration such as 3 h 12 min, 4 min 5 s, or 2.1 s."""
    if seconds is None:
        return "unknown time"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def _stages(counts: Counts, shares: Mapping[str, float]) -> str:
    """How busy each stage was, and what limited the run: starting up, or one stage that held up the others."""
    text = "busy: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    busiest = max(shares, key=lambda name: shares[name])
    if shares[busiest] >= _BUSY:
        return f"{text}; {busiest} sets the pace"
    first = counts.first_seconds or 0.0
    if first > max(counts.seconds / 2, _LONG_START):
        return f"{text}; {duration(first)} passed before the first row was done"
    return text
