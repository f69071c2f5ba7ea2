"""Scores a model on the public benchmarks, one row of the poster's table after the other.

    python -m benchmarks.public.run --list
    python -m benchmarks.public.run --model CHECKPOINT --out out/public              # the poster's rows
    python -m benchmarks.public.run --encoder HOST:50051 --out out/public            # the same with running services
    python -m benchmarks.public.run --encoder HOST:50051 --out out/public --rows globalcom2-10 --tasks gqa pope
    python -m benchmarks.public.table out/public

A row is one run of lmms-eval, whose results, with every answer, lie in OUT/ROW beside `tokens.json`, what the language
model was given. With --model, each row loads the checkpoint into its own process. A row that has results is left out,
unless --again.
"""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from visionsplit_client import DataTypeName, Layout, PositionIds

from benchmarks.public.rows import BENCHMARKS, POSTER_ROWS, ROWS, Row
from benchmarks.public.settings import PromptForm, Settings, Stops
from benchmarks.public.table import TOKENS_FILE, result_files

_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Order:
    """One run of lmms-eval."""

    row: Row
    folder: Path
    command: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status, 1 if a row has no results."""
    options = _parser().parse_args(arguments)
    if options.list:
        for row in ROWS.values():
            print(f"{row.name:<34}{row.retention:>5}  {row.label}")
        return 0
    if options.out is None:
        print("visionsplit: --out FOLDER is needed", file=sys.stderr)
        return 2
    failed = [order.row.name for order in orders(options) if not _done(order, options)]
    if failed:
        print(f"visionsplit: no results of {', '.join(failed)}; their output says why", file=sys.stderr)
    return 1 if failed else 0


def orders(options: argparse.Namespace) -> list[Order]:
    return [_order(ROWS[name], options) for name in options.rows or POSTER_ROWS]


def _order(row: Row, options: argparse.Namespace) -> Order:
    folder = (options.out / row.name).resolve()
    command = [sys.executable, "-m", "benchmarks.public.lmms", "--model", "visionsplit"]
    command += ["--model_args", _settings(row, options, folder).to_arguments()]
    command += ["--tasks", ",".join(options.tasks), "--output_path", str(folder), "--log_samples"]
    if options.limit is not None:
        command += ["--limit", str(options.limit)]
    if options.gen_kwargs:
        command += ["--gen_kwargs", options.gen_kwargs]
    return Order(row, folder, tuple(command))


def _settings(row: Row, options: argparse.Namespace, folder: Path) -> Settings:
    """Combine arguments; the row's take precedence. Without compression the layout is the model's: spatial."""
    compressed = row.arguments["method"] != "none" and not row.arguments.get("quotas_only")
    others = Settings(
        encoder=tuple(options.encoder),
        model=options.model,
        layout=options.layout if compressed else "spatial",
        position_ids=options.position_ids,
        data_type=options.data_type,
        prompt=options.prompt,
        stop=options.stop,
        concurrency=options.concurrency,
        tokens_file=folder / TOKENS_FILE,
    )
    return row.settings(others)


def _done(order: Order, options: argparse.Namespace) -> bool:
    before = set(result_files(order.folder))
    if before and not options.again:
        print(f"{order.row.name}: has results already")
        return True
    print(f"{order.row.name}: {shlex.join(order.command)}", flush=True)
    if options.dry_run:
        return True
    subprocess.run(order.command, cwd=_ROOT, env=os.environ, check=False)
    # lmms-eval prints an exception and still ends with 0.
    return set(result_files(order.folder)) > before


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.public.run", description="Score a model on the public benchmarks."
    )
    defaults = Settings()
    parser.add_argument("--list", action="store_true", help="print the rows and stop")
    parser.add_argument(
        "--rows", nargs="+", choices=list(ROWS), metavar="ROW", help="The rows to run. Default: the poster's."
    )
    parser.add_argument("--tasks", nargs="+", default=[one.task for one in BENCHMARKS], metavar="TASK")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="a folder for each row is made in it")
    parser.add_argument("--again", action="store_true", help="run rows that have results too")
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument(
        "--encoder",
        nargs="+",
        default=list(defaults.encoder),
        metavar="ADDRESS",
        help="The encoder services to ask, in turn. Default: %(default)s.",
    )
    asked.add_argument(
        "--model", metavar="CHECKPOINT", help="The checkpoint to load in place of asking services, a folder or hub id."
    )
    parser.add_argument("--concurrency", type=int, default=defaults.concurrency, help="calls under way at once")
    parser.add_argument("--data-type", choices=get_args(DataTypeName), help="between the services")
    parser.add_argument("--layout", choices=get_args(Layout), default="spatial", help="of compressed tokens")
    parser.add_argument("--position-ids", choices=get_args(PositionIds))
    parser.add_argument("--prompt", choices=get_args(PromptForm), default=defaults.prompt)
    parser.add_argument(
        "--stop", choices=get_args(Stops), default="none", help="whether a task's `until` ends an answer"
    )
    parser.add_argument("--limit", type=int, help="questions of each task; for a try")
    parser.add_argument("--gen_kwargs", help="lmms-eval's, such as temperature=0")
    return parser


if __name__ == "__main__":
    sys.exit(main())
