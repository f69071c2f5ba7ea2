"""The tables of the page, from saved results."""

import math
import statistics
from collections.abc import Sequence

from benchmarks.efficiency.tables import markdown
from benchmarks.peers.plan import GENERATE, HEADLINE_CALLERS, PROPORTIONED, SHIPPED, VLLM, Condition
from benchmarks.peers.results import Result, Saved, Spread, Target
from benchmarks.peers.rows import closed_loads, images_per_second, median_first, named, open_loads, rows

_NONE = "–"


def throughput_table(saved: Saved, callers: int) -> str:
    """Images/s and latencies with a number of callers, and what they are of vLLM's."""
    header = ("", "prompt tokens", "images/s", "of vLLM's", "first token s, p50", "of vLLM's", "p99")
    return markdown(
        (*header, "next tokens ms, p50", "p99"),
        [
            (
                row.name,
                f"{_mean([sample.prompt_tokens for sample in row.last.answered]):.0f}",
                f"{row.spread(images_per_second):.2f}",
                _times(row.of_vllm(images_per_second)),
                f"{row.spread(median_first):.2f}",
                _times(row.of_vllm(median_first)),
                f"{row.spread(lambda one: one.first(99)):.2f}",
                f"{row.spread(lambda one: 1e3 * one.between(50)):.0f}",
                f"{row.spread(lambda one: 1e3 * one.between(99)):.0f}",
            )
            for row in rows(saved, PROPORTIONED, f"callers{callers}")
            if row.last.answered
        ],
    )


def of_the_loop(saved: Saved, callers: int) -> str:
    """Sentences: uncompressed times to first token as multiples of the `generate` loop's in the same repetition."""
    found = [row for row in rows(saved, PROPORTIONED, f"callers{callers}") if row.condition == Condition()]
    loop = next((row for row in found if row.contestant == GENERATE), None)
    if loop is None:
        return ""
    ratios = {row.name: row.of_peer(loop.results, median_first) for row in found if row is not loop}
    return "".join(f"- {name}: {ratio:.2f} times.\n" for name, ratio in ratios.items() if ratio is not None)


def cost_table(saved: Saved) -> str:
    """Memory, bytes and processor time, with HEADLINE_CALLERS callers."""
    header = ("", "PSS MiB", "of which", "start s", "loopback KB/image", "of which vision tokens", "CPU s/image")
    return markdown(
        header,
        [
            (
                row.name,
                f"{row.spread(_memory):.0f}",
                ", ".join(f"`{name}` {mib:.0f}" for name, mib in row.last.memory_mib.items()),
                f"{row.spread(lambda one: one.start_seconds):.0f}",
                f"{row.last.per_request(row.last.loopback_bytes) / 1e3:.0f}",
                f"{row.last.per_request(sum(sample.wire_bytes for sample in row.last.answered)) / 1e3:.0f}",
                f"{row.spread(lambda one: one.per_request(one.server_cpu_seconds)):.2f}",
            )
            for row in rows(saved, PROPORTIONED, f"callers{HEADLINE_CALLERS}")
            if row.last.answered
        ],
    )


def overload_table(saved: Saved, target: Target) -> str:
    """What comes back when requests come at a rate, whether they are answered or not."""
    lines = []
    for factor in open_loads(saved):
        for row in rows(saved, PROPORTIONED, f"rate{factor:g}"):
            one = row.last
            lines.append(
                (
                    f"{one.rate:.2f}",
                    row.name,
                    f"{one.images_per_second:.2f}",
                    f"{one.goodput(target):.2f}",
                    f"{sum(target.met_by(sample) for sample in one.answered) / len(one.samples):.0%}",
                    _seconds(one.first(50)),
                    _seconds(one.first(99)),
                    str(len(one.samples) - len(one.answered)),
                )
            )
    header = ("requests/s", "", "images/s", "goodput/s", "in time", "first token s, p50", "p99", "failed")
    return markdown(header, lines)


def accuracy_table(saved: Saved) -> str:
    """Right answers of the shipped model and its throughput at the same time."""
    header = ("", "prompt tokens", "right answers", "images/s", "of vLLM's", "first token s, p50", "p99")
    return markdown(
        header,
        [
            (
                row.name,
                f"{_mean([sample.prompt_tokens for sample in row.last.answered]):.0f}",
                f"{row.last.right:.1%}",
                f"{row.last.images_per_second:.2f}",
                _times(row.of_vllm(images_per_second)),
                f"{row.last.first(50):.2f}",
                f"{row.last.first(99):.2f}",
            )
            for row in rows(saved, SHIPPED, f"callers{HEADLINE_CALLERS}")
            if row.last.answered
        ],
    )


def fairness_table(saved: Saved) -> str:
    """What would show that contestants did different work, with HEADLINE_CALLERS callers."""
    found = rows(saved, PROPORTIONED, f"callers{HEADLINE_CALLERS}")
    reference = {row.contestant: row for row in found if row.condition == Condition()}
    base = next(iter(reference.values()), None)
    header = (
        "uncompressed",
        "prompt tokens",
        "new tokens",
        "same answers as the first row",
        "callers' share of a core",
    )
    return markdown(
        header,
        [
            (
                row.name,
                f"{_mean([sample.prompt_tokens for sample in row.last.answered]):.1f}",
                _range([len(sample.tokens) for sample in row.last.answered]),
                f"{same_answers(row.last, base.last):.0%}" if base else _NONE,
                f"{row.last.caller_cpu_seconds / row.last.seconds:.1%}",
            )
            for row in reference.values()
            if row.last.answered
        ],
    )


def same_answers(one: Result, other: Result) -> float:
    """The share of requests that both answered with the same tokens."""
    return statistics.fmean(a.ids == b.ids for a, b in zip(one.samples, other.samples, strict=True))


def behind_table(saved: Saved) -> str | None:
    """The rows in which visionsplit is behind vLLM's whole model; None if it is behind in no row."""
    lines = []
    for callers in closed_loads(saved):
        for row in rows(saved, PROPORTIONED, f"callers{callers}"):
            speed, first = row.of_vllm(images_per_second), row.of_vllm(median_first)
            if row.contestant in (VLLM, GENERATE) or speed is None or first is None:
                continue
            if speed.median < 1 or first.median > 1:
                lines.append((row.name, str(callers), f"{speed:.2f}", f"{first:.2f}"))
    header = ("", "callers", "images/s, of vLLM's", "median time to first token, of vLLM's")
    return markdown(header, lines) if lines else None


def failures(saved: Saved) -> list[str]:
    """A sentence for each part in which requests failed."""
    return [
        f"{named(one.part.contestant, one.part.condition)}, {one.part.model} model, {one.part.load.name}: "
        f"{failed} of {len(one.samples)} requests failed."
        for one in saved.results
        if (failed := len(one.samples) - len(one.answered))
    ]


def _memory(one: Result) -> float:
    return sum(one.memory_mib.values())


def _times(spread: Spread | None) -> str:
    return _NONE if spread is None else f"{spread:.2f}"


def _seconds(value: float) -> str:
    return _NONE if math.isnan(value) else f"{value:.2f}"


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def _range(values: Sequence[int]) -> str:
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)} to {max(values)}"
