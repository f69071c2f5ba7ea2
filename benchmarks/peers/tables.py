"""The tables of the page, from saved results."""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.efficiency.tables import markdown
from benchmarks.peers.plan import GENERATE, HEADLINE_CALLERS, PROPORTIONED, SHIPPED, UNCOMPRESSED, VLLM, Condition
from benchmarks.peers.results import Result, Saved, Spread, Target

_NONE = "–"


@dataclass(frozen=True)
class Row:
    """A contestant at one share of the tokens under one load, with all repetitions."""

    contestant: str
    condition: Condition
    results: tuple[Result, ...]  # by repetition
    peers: tuple[Result, ...]  # vLLM's results of the same repetitions; empty if it was not measured

    @property
    def name(self) -> str:
        return named(self.contestant, self.condition)

    @property
    def last(self) -> Result:
        return self.results[-1]

    def spread(self, figure: Callable[[Result], float]) -> Spread:
        return Spread.of([figure(result) for result in self.results])

    def of_vllm(self, figure: Callable[[Result], float]) -> Spread | None:
        """A figure as a multiple of vLLM's in the same repetition."""
        pairs = zip(self.results, self.peers, strict=True) if self.peers else ()
        values = [figure(own) / figure(peer) for own, peer in pairs if figure(peer)]
        return Spread.of(values) if values else None


def named(contestant: str, condition: Condition) -> str:
    """How the tables call it."""
    if contestant == VLLM:
        return "vLLM, whole model"
    if contestant == GENERATE:
        return "`generate` loop"
    engine = contestant.removeprefix("visionsplit-")
    engine = "vLLM" if engine == VLLM else engine
    method = "" if condition.method in (UNCOMPRESSED, "globalcom2") else f", {condition.method}"
    return f"visionsplit, {engine}, {condition.ratio:.0%}{method}"


def rows(saved: Saved, model: str, load: str) -> list[Row]:
    """One row for each contestant and condition under a load, in the order in which they were measured."""
    chosen = [one for one in saved.results if one.part.model == model and one.part.load.name == load]
    groups: dict[tuple[str, Condition], list[Result]] = {}
    for one in sorted(chosen, key=_order):
        groups.setdefault((one.part.contestant, one.part.condition), []).append(one)
    peers = {one.part.repetition: one for one in groups.get((VLLM, Condition()), ())}
    return [
        Row(contestant, condition, tuple(own), _of_same_repetitions(own, peers))
        for (contestant, condition), own in groups.items()
    ]


def _of_same_repetitions(own: Sequence[Result], peers: dict[int, Result]) -> tuple[Result, ...]:
    found = [peers[one.part.repetition] for one in own if one.part.repetition in peers]
    return tuple(found) if len(found) == len(own) else ()


def _order(one: Result) -> tuple[object, ...]:
    contestant = one.part.contestant
    return (contestant != VLLM, contestant, -one.part.condition.ratio, one.part.condition.method, one.part.repetition)


def closed_loads(saved: Saved) -> list[int]:
    """The numbers of callers that were measured."""
    return sorted({one.part.load.callers for one in _results(saved) if one.part.load.callers is not None})


def open_loads(saved: Saved) -> list[float]:
    """The factors of the rates that were measured."""
    return sorted({one.part.load.rate_factor for one in _results(saved) if one.part.load.rate_factor is not None})


def _results(saved: Saved) -> Iterator[Result]:
    return (one for one in saved.results if one.part.model == PROPORTIONED)


def throughput_table(saved: Saved, callers: int) -> str:
    """Images/s, what they are of vLLM's, and latencies, with a number of callers."""
    header = (
        "",
        "prompt tokens",
        "images/s",
        "of vLLM's",
        "first token s, p50",
        "p99",
        "between tokens ms, p50",
        "p99",
    )
    return markdown(
        header,
        [
            (
                row.name,
                f"{statistics.fmean(sample.prompt_tokens for sample in row.last.answered):.0f}",
                f"{row.spread(lambda one: one.images_per_second):.2f}",
                _times(row.of_vllm(lambda one: one.images_per_second)),
                f"{row.spread(lambda one: one.first(50)):.2f}",
                f"{row.spread(lambda one: one.first(99)):.2f}",
                f"{row.spread(lambda one: 1e3 * one.between(50)):.0f}",
                f"{row.spread(lambda one: 1e3 * one.between(99)):.0f}",
            )
            for row in rows(saved, PROPORTIONED, f"callers{callers}")
            if row.last.answered
        ],
    )


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
                f"{statistics.fmean(sample.prompt_tokens for sample in row.last.answered):.0f}",
                f"{row.last.right:.1%}",
                f"{row.last.images_per_second:.2f}",
                _times(row.of_vllm(lambda one: one.images_per_second)),
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
    """The share of requests that both answered with the same text."""
    pairs = [(a.text.strip(), b.text.strip()) for a, b in zip(one.samples, other.samples, strict=True)]
    return statistics.fmean(a == b for a, b in pairs)


def shortfalls(saved: Saved) -> Iterator[str]:
    """A sentence for each figure in which visionsplit is behind vLLM's whole model."""
    for callers in closed_loads(saved):
        load = f"callers{callers}"
        for row in rows(saved, PROPORTIONED, load):
            if row.contestant in (VLLM, GENERATE) or not row.last.answered:
                continue
            behind = []
            speed, first = row.of_vllm(lambda one: one.images_per_second), row.of_vllm(lambda one: one.first(50))
            if speed is not None and speed.median < 1:
                behind.append(f"{speed.median:.2f} times the images/s")
            if first is not None and first.median > 1:
                behind.append(f"{first.median:.2f} times the median time to first token")
            if behind:
                yield f"{row.name}, {callers} callers: {' and '.join(behind)}."
    for one in saved.results:
        failed = len(one.samples) - len(one.answered)
        if failed:
            yield f"{named(one.part.contestant, one.part.condition)}, {one.part.load.name}: {failed} requests failed."


def target_of(saved: Saved, multiple: float) -> Target | None:
    """The latency that a caller accepts, a multiple of vLLM's medians with one caller; None if not measured."""
    base = next((row for row in rows(saved, PROPORTIONED, "callers1") if row.contestant == VLLM), None)
    base = base or next(iter(rows(saved, PROPORTIONED, "callers1")), None)
    if base is None or not base.last.answered:
        return None
    first, whole = base.spread(lambda one: one.first(50)).median, base.spread(lambda one: one.whole(50)).median
    return Target(multiple * first, multiple * whole)


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
