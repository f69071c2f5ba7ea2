"""`python -m benchmarks.scale` measures how throughput grows with encoders, replicas and gateways.

    python -m benchmarks.scale [--out out/scale] [--report docs/scale.md] [--quick | --only-report]

Every point is saved to OUT/points.jsonl as soon as it is measured.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.scale import plot, report
from benchmarks.scale.experiments import FULL, QUICK, Experiments
from benchmarks.scale.measure import Point
from benchmarks.scale.system import Machine
from benchmarks.selection_cost import machine as machine_name

_POINTS = "points.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/scale"), help="the folder for the points (%(default)s)")
    parser.add_argument(
        "--report", type=Path, help="a page whose tables are replaced, such as docs/scale.md, with the figure beside it"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="two devices at most and short windows: does it work?")
    which.add_argument("--only-report", action="store_true", help="measure nothing; report what OUT has")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.only_report:
        _measure(options.out / _POINTS, quick=options.quick)
    lines = (options.out / _POINTS).read_text().splitlines()
    named, *points = [json.loads(line) for line in lines]
    measured = [Point(**point) for point in points]
    tables = report.tables(named["machine"], measured)
    print(tables)
    plot.draw(measured, options.out / "scale.png")
    if options.report is not None:
        report.write(options.report, tables)
        plot.draw(measured, options.report.with_suffix(".png"))
    return 0


def _measure(file: Path, *, quick: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="visionsplit-scale-") as folder, file.open("w") as saved:
        print(json.dumps({"machine": machine_name(torch.device("cpu"))}), file=saved, flush=True)
        with Machine.open(Path(folder)) as machine:
            for point in Experiments(machine, QUICK if quick else FULL).run():
                print(json.dumps(dataclasses.asdict(point)), file=saved, flush=True)
                print(report.line(point), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
