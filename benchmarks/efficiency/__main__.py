"""Prints the cost of an image with and without compression, as Markdown.

    python -m benchmarks.efficiency [--device cuda] [--shapes mini 50m 7b 13b] [--methods ...] [--ratios 0.5 0.25 0.1]
        [--repeats 3] [--new-tokens 8] [--seconds 200] [--threads 2] [--relative] [--quick]

Operations of LLaVA-NeXT-7B's and 13B's prefill first, by formula and counted; then every method at every ratio on the
small shapes (CPU, float32), and with `--device cuda` on the 7B and 13B shapes with random weights (GPU, bfloat16).
"""

import argparse
import dataclasses
import gc
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from visionsplit.errors import VisionSplitError

from benchmarks.efficiency.conditions import RATIOS, conditions, encoder_methods, known_methods
from benchmarks.efficiency.flops import LLAMA_2_7B, LLAMA_2_13B
from benchmarks.efficiency.measure import Row, measure
from benchmarks.efficiency.operations import EXPLANATION, prefill_table, stages_table
from benchmarks.efficiency.pipeline import TEXT_AFTER, TEXT_BEFORE, Pipeline
from benchmarks.efficiency.shapes import LARGE, SMALL, TIME_SHARES, checkpoint
from benchmarks.efficiency.tables import poster_table, time_table, work_table
from benchmarks.selection_cost import machine

_QUICK_RATIOS = (0.1,)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; tables go to stdout when they are ready."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        _check(options)
        _print_operations(quick=options.quick)
        shapes = options.shapes or ([*SMALL, *LARGE] if options.device == "cuda" else SMALL)
        if options.quick and not options.shapes:
            shapes = ["mini"]
        deadline = time.monotonic()
        for name in shapes:
            deadline += options.seconds * TIME_SHARES[name] / sum(TIME_SHARES[shape] for shape in shapes)
            _print_shape(name, options, deadline=deadline)
    except (VisionSplitError, ValueError) as error:
        print(f"efficiency: {error}", file=sys.stderr)
        return 1
    return 0


def _check(options: argparse.Namespace) -> None:
    """
    Raises:
        ValueError: options that do not go together, or no GPU where one is asked for.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("PyTorch finds no GPU on this machine")
    if options.new_tokens < 2:
        raise ValueError("--new-tokens must be 2 at least: the prefill brings the first")


def _print_operations(*, quick: bool) -> None:
    print("## TFLOPs of the prefill\n", EXPLANATION, sep="\n")
    for name, shape in (("7B", LLAMA_2_7B),) if quick else (("7B", LLAMA_2_7B), ("13B", LLAMA_2_13B)):
        print(f"### Llama-2-{name}\n", prefill_table(shape), sep="\n", flush=True)
    methods = () if quick else encoder_methods()
    print("### Before the language model, LLaVA-NeXT-7B\n", stages_table(LLAMA_2_7B, methods), sep="\n", flush=True)


def _print_shape(name: str, options: argparse.Namespace, *, deadline: float) -> None:
    """Measure one model and print its tables; rows that would start after `deadline` are listed instead."""
    device = torch.device(options.device if name in LARGE else "cpu")
    source = checkpoint(name)
    pipeline = Pipeline(source, device=device, dtype=torch.float32 if device.type == "cpu" else torch.bfloat16)
    chosen = conditions(pipeline.num_layers, options.methods, _QUICK_RATIOS if options.quick else options.ratios)
    rows = measure(pipeline, chosen.rows, repeats=options.repeats, new_tokens=options.new_tokens, deadline=deadline)
    done = [row.condition for row in rows]
    late = [f"{row.name} at {row.ratio:.0%}" for row in chosen.rows if row not in done]
    reasons = [*chosen.left_out, *([f"no time left for {', '.join(late)}"] if late else [])]
    print(f"## {source.name}\n\n{_facts(pipeline, rows, options.new_tokens)}\n")
    print(work_table(rows), time_table(rows, relative=options.relative), sep="\n", flush=True)
    if options.json is not None:
        file = options.json / f"efficiency-{name}.json"
        file.write_text(json.dumps([dataclasses.asdict(row) for row in rows], default=str, indent=1) + "\n")
    if name == "7b" and (poster := poster_table(rows)):
        print("Beside GlobalCom2's poster:\n", poster, sep="\n", flush=True)
    if reasons:
        print("Not measured:\n", *(f"- {reason}" for reason in reasons), "", sep="\n", flush=True)
    del pipeline
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _facts(pipeline: Pipeline, rows: Sequence[Row], new_tokens: int) -> str:
    """The machine and the settings, in a sentence or two."""
    repeats = sorted({row.repeats for row in rows})
    dtype = str(pipeline.dtype).removeprefix("torch.")
    return (
        f"{machine(pipeline.device)}; {dtype}, torch {torch.__version__}, transformers {transformers.__version__}; "
        f"{pipeline.weights / 1e6:,.1f} million weights. Language model: {pipeline.runner}. Batch 1, 2 x 2 "
        f"tiles, {TEXT_BEFORE + TEXT_AFTER} text tokens, {new_tokens} new tokens, greedy; medians of "
        f"{' or '.join(map(str, repeats))}."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.efficiency",
        description="What an image costs with and without compression.",
        epilog=f"Methods: {', '.join(known_methods())}.",
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        choices=["cpu", "cuda"],
        help="of the 7b and 13b shapes (default: a GPU if there is one)",
    )
    parser.add_argument(
        "--shapes", nargs="+", choices=TIME_SHARES, metavar="SHAPE", help=f"of {', '.join(TIME_SHARES)}"
    )
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="only these, beside none")
    parser.add_argument("--ratios", nargs="+", type=float, default=RATIOS, metavar="R")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=200, help="for all shapes; rows that come later are left out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--relative", action="store_true", help="times as a percentage of the uncompressed image's")
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="an existing folder for each shape's rows as JSON")
    parser.add_argument("--quick", action="store_true", help="the smallest shape at one ratio: does it work?")
    return parser


if __name__ == "__main__":
    sys.exit(main())
