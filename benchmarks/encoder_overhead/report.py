"""The tables of the benchmark."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.efficiency.tables import markdown
from benchmarks.encoder_overhead.bare import Bare
from benchmarks.encoder_overhead.served import Served


@dataclass(frozen=True)
class Round:
    """The bare tower, then the encoder under each condition."""

    bare: Bare
    served: tuple[Served, ...]


def speeds(rounds: Sequence[Round]) -> str:
    """A row for the tower, its limit and each condition; every share is of the same round's bare tower."""
    rows = [
        ("bare tower", *_speed(rounds, lambda one: one.bare.tower), "", "", ""),
        ("tower, decoding and cutting", *_speed(rounds, lambda one: one.bare.prepared_tower), "", "", ""),
    ]
    for index, served in enumerate(rounds[0].served):
        cpu = statistics.median(one.served[index].cpu for one in rounds)
        callers = statistics.median(one.served[index].callers_cpu for one in rounds)
        images = statistics.median(one.served[index].images for one in rounds)
        speed = _speed(rounds, lambda one, index=index: one.served[index].tiles)  # type: ignore[misc]
        rows.append((served.condition, *speed, f"{images:.2f}", f"{cpu * 1e3:.1f}", f"{callers * 1e3:.1f}"))
    header = ("", "tiles/s", "of the bare tower", "images/s", "encoder CPU ms/image", "callers CPU ms/image")
    return markdown(header, rows)


def stages(rounds: Sequence[Round]) -> str:
    """CPU milliseconds of an image in each stage, and their shares of the encoder's process."""
    table = []
    for index, served in enumerate(rounds[0].served):
        whole = statistics.median(one.served[index].cpu for one in rounds)
        parts = {
            name: statistics.median(_stages(one, index)[name] for one in rounds) for name in _stages(rounds[0], index)
        }
        parts["everything else"] = whole - sum(parts.values())
        cells = [f"{seconds * 1e3:.2f} ({seconds / whole:.1%})" for seconds in parts.values()]
        table.append((served.condition, *cells))
        header = ("", *parts)
    return markdown(header, table)


def _stages(one: Round, index: int) -> dict[str, float]:
    return {**one.bare.preparation, **one.bare.encoding[one.served[index].condition]}


def _speed(rounds: Sequence[Round], tiles: Callable[[Round], float]) -> tuple[str, str]:
    """The median of a speed, and the median and range of its share of the bare tower."""
    shares = [tiles(one) / one.bare.tower for one in rounds]
    speed = statistics.median(map(tiles, rounds))
    return f"{speed:.1f}", f"{statistics.median(shares):.1%} ({min(shares):.1%} to {max(shares):.1%})"
