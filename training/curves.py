"""Draws a run's log: python -m training.curves LOG.jsonl PICTURE.png (needs matplotlib)."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from matplotlib.axes import Axes

LOSSES = ("tile", "patch_kinds", "patch_colours", "early_characters", "characters", "places", "answers")
Entry = Mapping[str, Any]  # a line of the log


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.curves", description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    entries = [json.loads(line) for line in arguments.log.read_text().splitlines()]
    draw(entries, arguments.picture)


def draw(entries: Sequence[Entry], picture: Path) -> None:
    """Losses, and the answers that are right, stage beside stage."""
    stages = list(dict.fromkeys(str(entry["stage"]) for entry in entries))
    figure, axes = pyplot.subplots(2, len(stages), figsize=(5 * len(stages), 7), squeeze=False, layout="constrained")
    for column, stage in enumerate(stages):
        mine = [entry for entry in entries if entry["stage"] == stage]
        _draw_losses(axes[0][column], [entry for entry in mine if "right" not in entry])
        _draw_right(axes[1][column], [entry for entry in mine if "right" in entry])
        axes[0][column].set_title(stage)
    axes[0][0].set_ylabel("loss")
    axes[1][0].set_ylabel("answers right to the last token")
    figure.savefig(picture, dpi=80)
    pyplot.close(figure)


def _draw_losses(axes: Axes, entries: Sequence[Entry]) -> None:
    for name in LOSSES:
        points = [(entry["step"], entry[name]) for entry in entries if entry.get(name)]
        if points:
            axes.semilogy(*zip(*points, strict=True), label=name.replace("_", " "), linewidth=1)
    axes.set_xlabel("step")
    axes.legend(fontsize=7)


def _draw_right(axes: Axes, entries: Sequence[Entry]) -> None:
    topics: Mapping[str, float] = entries[0]["right"] if entries else {}
    for topic in topics:
        axes.plot([e["step"] for e in entries], [e["right"][topic] for e in entries], label=topic, marker=".")
    axes.set(xlabel="step", ylim=(0, 1.02))
    if topics:
        axes.legend(fontsize=7)
    else:
        axes.set_axis_off()  # no answers in this stage


if __name__ == "__main__":
    main()
