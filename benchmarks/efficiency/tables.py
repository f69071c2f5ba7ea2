"""Formats rows as Markdown."""

import statistics
from collections.abc import Sequence

from benchmarks.efficiency.measure import STAGES, Row

_NOT_MEASURED = "not measured"
# Of GlobalCom2's poster for LLaVA-NeXT-7B: peak memory in GB at 100% and 10% of the tokens, and the throughput at 10%.
_POSTER_GB, _POSTER_SPEED = (23.0, 13.9), 1.8


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, with a line break at its end."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def work_table(rows: Sequence[Row]) -> str:
    """Tokens, operations and memory; the last column is the share of the first row, the uncompressed image."""
    header = (
        "method",
        "ratio",
        "vision tokens",
        "prompt tokens per layer",
        "encoder TFLOPs",
        "prefill TFLOPs",
        "prefill",
        "KV cache MB",
        "peak GB",
    )
    base = rows[0].work.prefill
    return markdown(
        header,
        [
            (
                *_names(row),
                str(row.outcome.vision_tokens),
                _number(statistics.mean(row.outcome.layer_tokens)),
                _tera(row.work.encoder),
                _tera(row.work.prefill),
                f"{row.work.prefill / base:.1%}",
                f"{row.outcome.cache_bytes / 1e6:.1f}",
                _NOT_MEASURED if row.peak_bytes is None else f"{row.peak_bytes / 1e9:.2f}",
            )
            for row in rows
        ],
    )


def time_table(rows: Sequence[Row], *, relative: bool) -> str:
    """Time by stage, and images per second; the first row is the uncompressed image.

    With `relative` every time is a percentage of the whole uncompressed image's and images per second are left out.
    """
    unit = "%" if relative else "ms"
    header = ["method", "ratio", *(f"{name} {unit}" for name in STAGES), f"image {unit}"]
    header[header.index(f"decode {unit}")] += "/token"
    header += ["prefill speed", "image speed"] if relative else ["images/s", "prefill speed", "image speed"]
    base = rows[0]
    scale = 100 / base.image_seconds if relative else 1e3
    table = []
    for row in rows:
        times = [row.stage_seconds[name] for name in STAGES] + [row.image_seconds]
        cells = [*_names(row), *(_time(seconds * scale) for seconds in times)]
        cells += [] if relative else [f"{1 / row.image_seconds:.2f}"]
        cells.append(f"{base.stage_seconds['prefill'] / row.stage_seconds['prefill']:.2f} x")
        cells.append(f"{base.image_seconds / row.image_seconds:.2f} x")
        table.append(cells)
    return markdown(header, table)


def poster_table(rows: Sequence[Row]) -> str:
    """The 7B model beside GlobalCom2's poster; empty without rows of GlobalCom2 at 10% and of the whole image."""
    whole = next((row for row in rows if row.condition.name == "none"), None)
    tenth = next((row for row in rows if (row.condition.name, row.condition.ratio) == ("globalcom2", 0.1)), None)
    if whole is None or tenth is None:
        return ""
    peaks = [_NOT_MEASURED if row.peak_bytes is None else f"{row.peak_bytes / 1e9:.1f}" for row in (whole, tenth)]
    speed = whole.image_seconds / tenth.image_seconds
    return markdown(
        ("", "poster", "here"),
        [
            ("prefill TFLOPs, 100% and 10%", "", f"{_tera(whole.work.prefill)}, {_tera(tenth.work.prefill)}"),
            ("peak GB, 100% and 10%", ", ".join(map(str, _POSTER_GB)), ", ".join(peaks)),
            ("throughput at 10%", f"{_POSTER_SPEED} x", f"{speed:.2f} x"),
        ],
    )


def _names(row: Row) -> tuple[str, str]:
    ratio = row.condition.ratio
    return row.condition.name, "own" if ratio is None else f"{ratio:.0%}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.1f}"


def _tera(operations: int) -> str:
    """TFLOPs with at least three digits, however small the model."""
    value = operations / 1e12
    return f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def _time(value: float) -> str:
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"
