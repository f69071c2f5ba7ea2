"""The points as tables, and the part of a page that they replace."""

import os
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from benchmarks.efficiency.tables import markdown
from benchmarks.scale.arithmetic import Costs, thousand_gpus
from benchmarks.scale.measure import Point

_BEGIN, _END = "<!-- `make bench-scale` writes from here -->", "<!-- to here -->"
_KINDS = ("encoder", "gateway", "replica", "Ray", "client")
_WIDTH = 120  # of the page's lines
_NEAR = 0.95  # of a limit
_FULL = 0.85  # of a core or of all cores: nothing keeps them busier for long
SCALED = ("encoders", "replicas", "both")


def line(point: Point) -> str:
    """A point, for people who wait for the end."""
    parts = f"{point.encoders} encoders, {point.gateways} gateways, {point.replicas} replicas"
    return (
        f"{point.experiment}: {parts}, {_device(point)}, {point.ratio:.0%}, {point.new_tokens} tokens: {_rate(point)}"
    )


def tables(machine: str, points: Sequence[Point]) -> str:
    """All tables in Markdown, each below its heading."""
    parts = [
        fill(
            f"Machine: {machine}. Command: `make bench-scale`. Rates are means of windows of equal length, with the "
            "lowest and the highest window in parentheses.",
            _WIDTH,
        ),
        "### Throughput against linear\n\n" + _scaling(points),
        "### Less and less device time\n\n" + _shrinking(points),
        "### One gateway\n\n" + _gateway(points),
        "### Several gateways in front of the same replicas\n\n" + _gateways(points),
        "### Where a gateway's time goes\n\n" + _profiles(points),
        "### Where it bends\n\n" + _bends(points),
        "### A thousand GPUs\n\n" + thousand_gpus(Costs.of(points)),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def write(page: Path, text: str) -> None:
    """Replace the measured part of a page.

    Raises:
        ValueError: the page has no such part.
    """
    before, begin, rest = page.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"{page} has no lines {_BEGIN!r} and {_END!r}")
    figure = f"![Throughput with 1 to 8 devices, and with less and less device time]({page.with_suffix('.png').name})"
    page.write_text(f"{before}{_BEGIN}\n\n{text}\n{figure}\n\n{_END}{after}")


def scaled(points: Sequence[Point], name: str) -> list[Point]:
    """An experiment's points with the longest device time, by number of devices."""
    found = of(points, name)
    longest = max(point.device_seconds for point in found)
    return sorted((point for point in found if point.device_seconds == longest), key=lambda point: point.devices)


def of(points: Sequence[Point], *names: str) -> list[Point]:
    """The points of experiments, in the order of the names."""
    return [point for name in names for point in points if point.experiment == name]


def _scaling(points: Sequence[Point]) -> str:
    rows = []
    for name in SCALED:
        one, *_ = measured = scaled(points, name)
        for point in measured:
            assert point.expected is not None, "the longest device time is some"
            rows.append(
                (
                    *(name, str(point.devices), _device(point), _rate(point)),
                    f"{point.rate / (point.devices * one.rate):.3f}",
                    f"{point.rate / point.expected:.3f}",
                    *(_first(point), _cores(point)),
                )
            )
    header = ("scaled", "of each", "device", "requests/s", "of linear", "of the devices' limit")
    return markdown((*header, "first token p50, p99", "busy cores"), rows)


def _shrinking(points: Sequence[Point]) -> str:
    rows = []
    for name in ("encoders", "replicas"):
        most = max(point.devices for point in of(points, name))
        for point in (point for point in of(points, name) if point.devices == most):
            share = "" if point.expected is None else f"{point.rate / point.expected:.2f}"
            costs = (f"{1e3 * point.processor_seconds.get(kind, 0.0):.1f}" for kind in _KINDS)
            rows.append((f"{most} {name}", _device(point), _rate(point), share, _cores(point), *costs))
    header = ("", "device", "requests/s", "of the devices' limit", "busy cores")
    return markdown((*header, *(f"{kind} ms" for kind in _KINDS)), rows)


def _gateway(points: Sequence[Point]) -> str:
    rows = []
    for point in of(points, "gateway, local", "gateway, Ray"):
        cost = point.processor_seconds["gateway"]
        rows.append(
            (
                point.experiment.removeprefix("gateway, "),
                *(f"{point.ratio:.0%}", f"{point.upload_bytes / 1e6:.2f}", str(point.new_tokens), _rate(point)),
                *(f"{point.megabytes:.0f}", f"{point.rate * point.new_tokens:.0f}", f"{1e3 * cost:.1f}"),
                *(f"{1 / cost:.0f}", f"{point.upload_bytes / 1e6 / cost:.0f}", _cores(point)),
            )
        )
    header = ("backend", "kept", "MB", "new tokens", "requests/s", "MB/s", "tokens/s", "gateway ms")
    return markdown((*header, "requests/s of a core", "MB/s of a core", "busy cores"), rows)


def _gateways(points: Sequence[Point]) -> str:
    rows = [
        (str(point.gateways), str(point.replicas), _device(point), _rate(point), _first(point), _cores(point))
        for point in of(points, "gateways")
    ]
    return markdown(("gateways", "replicas", "device", "requests/s", "first token p50, p99", "busy cores"), rows)


def _profiles(points: Sequence[Point]) -> str:
    profiled = [point for point in of(points, "gateway, Ray") if point.profile]
    parts = list(dict.fromkeys(part for point in profiled for part in point.profile or {}))
    rows = [
        (f"{point.ratio:.0%}, {point.new_tokens} tokens", *(f"{(point.profile or {}).get(p, 0.0):.0%}" for p in parts))
        for point in profiled
    ]
    return f"Shares of the samples in which the gateway held Python's lock.\n\n{markdown(('', *parts), rows)}"


def _bends(points: Sequence[Point]) -> str:
    """Of each half, the first device time that misses the limit, and what is busy then."""
    sentences = []
    for name in ("encoders", "replicas"):
        most = max(point.devices for point in of(points, name))
        shrinking = [point for point in of(points, name) if point.devices == most]
        bent = next(point for point in shrinking if point.expected is None or point.rate < _NEAR * point.expected)
        where = f"a device takes {_device(bent)}" if bent.device_seconds else "devices take no time"
        busy = sorted(bent.busy_cores.items(), key=lambda item: -item[1])
        named = ", ".join(f"{kind} {cores:.2f}" for kind, cores in busy)
        sentence = (
            f"- {most} {name} reach {_NEAR:.0%} of the devices' limit at all times measured until {where}. There "
            f"{sum(bent.busy_cores.values()):.2f} of {os.cpu_count()} cores are busy ({named}). {_reason(bent)}"
        )
        sentences.append(fill(sentence, _WIDTH, subsequent_indent="  "))
    return "\n".join(sentences)


def _reason(point: Point) -> str:
    if point.busy_cores.get("gateway", 0.0) > _FULL * max(point.gateways, 1):
        return "The gateway, which is one Python process, has no more of a core."
    if sum(point.busy_cores.values()) > _FULL * (os.cpu_count() or 1):
        return "The machine has no core left."
    return "Neither the cores nor the gateway are the limit: the rest is waiting between the parts."


def _device(point: Point) -> str:
    return f"{1e3 * point.device_seconds:.0f} ms" if point.device_seconds else "no time"


def _rate(point: Point) -> str:
    return f"{point.rate:.2f} ({min(point.rates):.2f} to {max(point.rates):.2f})"


def _first(point: Point) -> str:
    return ", ".join(f"{seconds:.2f} s" for seconds in point.first_seconds)


def _cores(point: Point) -> str:
    return f"{sum(point.busy_cores.values()):.2f}"
