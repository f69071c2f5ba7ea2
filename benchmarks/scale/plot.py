"""The figure of docs/scale.md."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.scale.measure import Point
from benchmarks.scale.report import SCALED, of, scaled

_MARKS = {"encoders": "o", "replicas": "s", "both": "^"}


def draw(points: Sequence[Point], file: Path) -> None:
    """Throughput against linear on the left; against the devices' limit, with less device time, on the right."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    linear, shrinking = figure.subplots(1, 2)
    sizes: list[int] = []
    for name in SCALED:
        one, *_ = measured = scaled(points, name)
        sizes = [point.devices for point in measured]
        low = [(point.rate - min(point.rates)) / one.rate for point in measured]
        high = [(max(point.rates) - point.rate) / one.rate for point in measured]
        rates = [point.rate / one.rate for point in measured]
        label = "encoders and replicas" if name == "both" else name
        linear.errorbar(sizes, rates, (low, high), marker=_MARKS[name], capsize=3, label=label)
    linear.plot(sizes, sizes, "k:", label="linear")
    linear.set(xlabel="of each", ylabel="throughput, as a multiple of one", xticks=sizes)
    linear.legend()
    for name in ("encoders", "replicas"):
        most = max(point.devices for point in of(points, name))
        found = [point for point in of(points, name) if point.devices == most and point.expected is not None]
        limits = [point.expected or 0.0 for point in found]
        shrinking.plot(limits, [point.rate for point in found], marker=_MARKS[name], label=f"{most} {name}")
        shrinking.plot(limits, limits, "k:")
    shrinking.set(xlabel="devices' limit, requests/s", ylabel="measured requests/s", xscale="log", yscale="log")
    shrinking.legend()
    figure.savefig(file, dpi=120)
