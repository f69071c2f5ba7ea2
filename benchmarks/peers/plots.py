"""The plots of the page."""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib import pyplot
from matplotlib.axes import Axes

from benchmarks.peers.plan import HEADLINE_CALLERS, PROPORTIONED, SHIPPED
from benchmarks.peers.results import Result, Saved
from benchmarks.peers.rows import Row, closed_loads, rows

_MARKS = "osD^v*"  # a contestant has a mark and a colour, a share of the tokens a shade


def draw_latency(saved: Saved, picture: Path) -> None:
    """Throughput against time to first token: a line for each contestant and share, a point for each load."""
    lines: dict[str, list[tuple[int, Row]]] = {}
    for callers in closed_loads(saved):
        for row in rows(saved, PROPORTIONED, f"callers{callers}"):
            if row.last.answered:
                lines.setdefault(row.name, []).append((callers, row))
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 5.5), layout="constrained", sharey=True)
    for area, percentile in zip(axes, (50, 99), strict=True):
        for points in lines.values():
            _draw_line(area, points, _first(percentile), _contestants(lines))
        area.set(xscale="log", xlabel=f"time to first token, p{percentile}, seconds")
        area.grid(alpha=0.3)
    axes[0].set_ylabel("images/s")
    axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.suptitle("Throughput and time to first token; the numbers are callers")
    _save(picture)


def draw_accuracy(saved: Saved, picture: Path) -> None:
    """Right answers of the shipped model against its throughput under load."""
    found = [row for row in rows(saved, SHIPPED, f"callers{HEADLINE_CALLERS}") if row.last.answered]
    contestants = list(dict.fromkeys(row.contestant for row in found))
    figure, area = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for contestant in contestants:
        own = [row for row in found if row.contestant == contestant]
        place = contestants.index(contestant)
        speeds = [row.last.images_per_second for row in own]
        area.plot(
            speeds, [100 * row.last.right for row in own], f"{_MARKS[place]}-", color=f"C{place}", label=contestant
        )
        for row, speed in zip(own, speeds, strict=True):
            label = f"{row.condition.ratio:.0%}"
            area.annotate(label, (speed, 100 * row.last.right), textcoords="offset points", xytext=(5, 5), fontsize=8)
    area.set(xlabel=f"images/s with {HEADLINE_CALLERS} callers", ylabel="right answers, %")
    area.grid(alpha=0.3)
    area.legend(fontsize=8)
    figure.suptitle("Right answers and throughput at the same time, the shipped model")
    _save(picture)


def _draw_line(
    area: Axes, points: Sequence[tuple[int, Row]], across: Callable[[Result], float], contestants: Sequence[str]
) -> None:
    first = points[0][1]
    place = contestants.index(first.contestant)
    x = [row.spread(across).median for _, row in points]
    y = [row.spread(lambda one: one.images_per_second).median for _, row in points]
    shade = 0.35 + 0.65 * first.condition.ratio
    area.plot(x, y, f"{_MARKS[place]}-", color=f"C{place}", alpha=shade, label=first.name.replace("`", ""))
    for (callers, _), right, up in zip(points, x, y, strict=True):
        area.annotate(str(callers), (right, up), textcoords="offset points", xytext=(4, 4), fontsize=7)


def _first(percentile: float) -> Callable[[Result], float]:
    return lambda one: one.first(percentile)


def _contestants(lines: dict[str, list[tuple[int, Row]]]) -> list[str]:
    return list(dict.fromkeys(points[0][1].contestant for points in lines.values()))


def _save(picture: Path) -> None:
    pyplot.savefig(picture, dpi=90)
    pyplot.close()
