"""The rows of the tables: results of a contestant at one share of the tokens under one load, with all repetitions."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.peers.plan import GENERATE, PROPORTIONED, UNCOMPRESSED, VLLM, Condition
from benchmarks.peers.results import Result, Saved, Spread, Target


@dataclass(frozen=True)
class Row:
    """A contestant at one share of the tokens under one load, with all repetitions."""

    contestant: str
    condition: Condition
    results: tuple[Result, ...]  # by repetition
    peers: tuple[Result, ...]  # vLLM's

    @property
    def name(self) -> str:
        return named(self.contestant, self.condition)

    @property
    def last(self) -> Result:
        return self.results[-1]

    def spread(self, figure: Callable[[Result], float]) -> Spread:
        return Spread.of([figure(result) for result in self.results])

    def of_vllm(self, figure: Callable[[Result], float]) -> Spread | None:
        """A figure as a multiple of vLLM's in the same repetition; None where vLLM was not measured."""
        return self.of_peer(self.peers, figure)

    def of_peer(self, peers: Sequence[Result], figure: Callable[[Result], float]) -> Spread | None:
        """A figure as a multiple of a peer's in the same repetition; None where no repetition has both."""
        theirs = {one.part.repetition: figure(one) for one in peers if one.answered}
        values = [
            figure(own) / theirs[own.part.repetition]
            for own in self.results
            if own.answered and own.part.repetition in theirs
        ]
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
    peers = tuple(groups.get((VLLM, Condition()), ()))
    return [Row(contestant, condition, tuple(own), peers) for (contestant, condition), own in groups.items()]


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


def target_of(saved: Saved, multiple: float) -> tuple[Target, str] | None:
    """The latency that a caller accepts, a multiple of medians with one caller, and whose; None if not measured.

    They are vLLM's, or the first contestant's where vLLM was left out.
    """
    base = next(iter(rows(saved, PROPORTIONED, "callers1")), None)  # vLLM is the first
    if base is None or not base.last.answered:
        return None
    whole = base.spread(lambda one: one.whole(50)).median
    return Target(multiple * base.spread(median_first).median, multiple * whole), base.name


def others_share(saved: Saved) -> float | None:
    """The largest share of a core that other programs took while a part was measured."""
    return max((one.other_cpu_seconds / one.seconds for one in saved.results), default=None)


def images_per_second(one: Result) -> float:
    return one.images_per_second


def median_first(one: Result) -> float:
    return one.first(50)
