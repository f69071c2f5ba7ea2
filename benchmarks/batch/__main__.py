"""Compares the batch job with a hand-written loop on this machine's CPU, and checks that the job is fast enough.

    python -m benchmarks.batch [--model FOLDER|proportioned|tiny ...] [--images N] [--batch-sizes 1 4 8]
        [--modes services ray] [--ratios 1 0.1] [--max-new-tokens 16] [--quick]

Exit code 1 if, with a model of LLaVA-NeXT's proportions, a job is slower than the fastest loop at ratio 1, or less than
2.5 times as fast at 10%. Of other models, whose vision tower may be most of the work, that is only said.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers.utils import logging

from benchmarks.batch import inputs, jobs, report
from benchmarks.selection_cost import machine
from benchmarks.shapes import SHIPPED

MODES = ("services", "ray")
_IMAGES = {inputs.PROPORTIONED: 32, inputs.TINY: 6}  # for these models, by default; for others:
_MANY_IMAGES = 120
EXPLANATION = """\
All in one run: the loop at each batch size, then the batch job. The same images from the same files in the same order,
same prompt, float32, greedy decoding, at most {tokens} new tokens. Images/s count from the first image to the last,
reading included; starting up (Python, weights, services) is left out of both sides there and in both sides of "with
start". The loop uses all cores and has captioned one image before. A job on Ray starts its services itself, so its
start is taken from the same job on one image, whose own time is left out of both. Answers are the same where text and
number of tokens are; a loop's larger batches differ from its batch of one as well where two tokens are nearly equally
likely."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; one table per model goes to stdout when it is ready."""
    options = _parser().parse_args(arguments)
    models = options.model or ([inputs.TINY] if options.quick else [str(SHIPPED), inputs.PROPORTIONED])
    logging.disable_progress_bar()
    print(f"{machine(torch.device('cpu'))}, {os.cpu_count()} cores; torch {torch.__version__}\n")
    print(EXPLANATION.format(tokens=options.max_new_tokens), flush=True)
    failed = False
    with tempfile.TemporaryDirectory(prefix="visionsplit-batch-") as folder:
        try:
            for number, name in enumerate(models):
                failed |= _measure(name, Path(folder) / str(number), options)
        except jobs.FailedError as error:
            print(f"bench-batch: {error}", file=sys.stderr)
            return 1
    return 1 if failed else 0


def _measure(name: str, folder: Path, options: argparse.Namespace) -> bool:
    """Measure and print one model; return whether a job is too slow."""
    model = inputs.checkpoint(name, folder / "model")
    number = options.images or _IMAGES.get(name, _MANY_IMAGES)
    images = inputs.write_images(folder / "images", range(number))
    inputs.write_images(folder / "one", [number])  # a separate image, which warms nothing up for the others
    print(f"\n## {Path(name).name}, {number} images\n", flush=True)
    loop = jobs.loop(model, images, options.batch_sizes, options.prompt, options.max_new_tokens)
    done = list(_jobs(model, images, folder, options))
    print(report.table(loop, done), report.stages(done), f"{report.shares(loop, done)}\n", sep="\n")
    verdicts = report.verdicts(loop, done, must=name == inputs.PROPORTIONED and not options.quick)
    print(*(verdict.text for verdict in verdicts), sep="\n", flush=True)
    return any(verdict.failed for verdict in verdicts)


def _jobs(model: Path, images: Path, folder: Path, options: argparse.Namespace) -> Iterator[report.Job]:
    """Run every job, each after a job with a single image, which warms the services up or measures a start on Ray."""

    def caption(name: str, folder_of_images: Path, there: Sequence[str], ratio: float) -> jobs.JobRun:
        output = folder / f"{name}-{ratio}-{folder_of_images.name}"
        return jobs.job(
            folder_of_images, output, there, ratio=ratio, prompt=options.prompt, max_new_tokens=options.max_new_tokens
        )

    modes = ["services"] if options.quick else options.modes
    if "services" in modes:
        with jobs.services(model) as (address, start_seconds):
            there = ["--encoder", address]
            caption("services", folder / "one", there, 1.0)
            for ratio in options.ratios:
                run = caption("services", images, there, ratio)
                yield report.Job("services", ratio, run, start_seconds, run.seconds)
    if "ray" in modes:
        there = ["--model", str(model)]
        first = caption("ray", folder / "one", there, 1.0)
        for ratio in options.ratios:
            run = caption("ray", images, there, ratio)
            number = len(run.captions)
            seconds = (run.seconds - first.seconds) * number / max(number - 1, 1)  # of all images, without the start
            yield report.Job("ray", ratio, run, first.command_seconds, seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add(
        "--model",
        action="append",
        metavar="NAME",
        help=f"checkpoint's folder, {inputs.PROPORTIONED} (random weights, LLaVA-NeXT's proportions) or {inputs.TINY}; "
        f"may be repeated (default: the shipped one and {inputs.PROPORTIONED})",
    )
    add(
        "--images",
        type=int,
        metavar="N",
        help=f"(default: {_MANY_IMAGES}; {_IMAGES[inputs.PROPORTIONED]} of the larger)",
    )
    add("--batch-sizes", type=int, nargs="+", default=[1, 4, 8], metavar="N", help="of the loop; the fastest counts")
    add("--modes", nargs="+", choices=MODES, default=MODES, help="running services, or a job that starts its own")
    add("--ratios", type=float, nargs="+", default=[1.0, 0.1], metavar="R")
    add("--prompt", default="Describe the image.")
    add("--max-new-tokens", type=int, default=16, metavar="N")
    add("--quick", action="store_true", help="a tiny model, services only, nothing must hold: does it work?")
    return parser


if __name__ == "__main__":
    sys.exit(main())
