"""Plots a training log: python -m training.curves LOG.jsonl PLOT.png (needs matplotlib)."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from matplotlib.axes import Axes

LOSSES = ("tile", "patch_kinds", "patch_colours", "early_characters", "characters", "places", "answers")
Entry = Mapping[str, Any]  # one line of the log


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.curves", description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("plot", type=Path)
    arguments = parser.parse_args()
    entries = [json.loads(line) for line in arguments.log.read_text().splitlines()]
    draw(entries, arguments.plot)


def draw(entries: Sequence[Entry], plot: Path) -> None:
    """Plot losses, and next to them the shares of right answers, one row per stage, one legend above each column."""
    stages = list(dict.fromkeys(str(entry["stage"]) for entry in entries))
    topics = list(dict.fromkeys(topic for entry in entries for topic in entry.get("right", {})))
    figure, axes = pyplot.subplots(
        len(stages), 2, figsize=(11, 2.6 * len(stages) + 1), squeeze=False, layout="constrained"
    )
    for row, stage in zip(axes, stages, strict=True):
        mine = [entry for entry in entries if entry["stage"] == stage]
        _draw_losses(row[0], [entry for entry in mine if "right" not in entry])
        _draw_right(row[1], [entry for entry in mine if "right" in entry], topics)
        row[0].set_title(f"{stage}: loss")
    for column, names in enumerate((LOSSES, topics)):
        lines = [pyplot.Line2D([], [], color=f"C{number}") for number in range(len(names))]
        labels = [name.replace("_", " ") for name in names]
        # Above the first row, where it covers no curve.
        axes[0][column].legend(lines, labels, ncols=3, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.12))
    figure.savefig(plot, dpi=80)
    pyplot.close(figure)


def _draw_losses(axes: Axes, entries: Sequence[Entry]) -> None:
    for number, name in enumerate(LOSSES):
        points = [(entry["step"], entry[name]) for entry in entries if entry.get(name)]
        if points:
            axes.semilogy(*zip(*points, strict=True), color=f"C{number}", linewidth=1)
    axes.set_xlabel("step")


def _draw_right(axes: Axes, entries: Sequence[Entry], topics: Sequence[str]) -> None:
    if not entries:  # this stage has no answers
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no answers in this stage", ha="center", transform=axes.transAxes)
        return
    for number, topic in enumerate(topics):
        points = [(entry["step"], entry["right"][topic]) for entry in entries if topic in entry["right"]]
        axes.plot(*zip(*points, strict=True), color=f"C{number}", marker=".")
    axes.set(title="answers right to the last token", xlabel="step", ylim=(0, 1.02))


if __name__ == "__main__":
    main()
