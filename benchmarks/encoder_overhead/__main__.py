"""Compares the encoder's process with its bare vision tower on this machine's CPU.

python -m benchmarks.encoder_overhead [--model FOLDER|proportioned|llava-next] [--images N] [--callers 16]
    [--requests N] [--rounds 5]
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers.utils import logging

from benchmarks.batch import inputs
from benchmarks.encoder_overhead import report
from benchmarks.encoder_overhead.bare import Bare
from benchmarks.encoder_overhead.served import CONDITIONS, Served, keep_busy, read
from benchmarks.load.system import Service, free_port
from benchmarks.selection_cost import machine
from benchmarks.shapes import CLIP_L
from tests.checkpoints import tiny_checkpoint

LLAVA_NEXT = "llava-next"
_CLIP_FIELDS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size")
EXPLANATION = """\
Rounds in turn: the bare vision tower, then the encoder's process under each condition, with {callers} callers that send
different JPEG files through the SDK. Both processes have the same settings and the same batches of up to 16 tiles. The
second row adds the time in which all cores decode and cut the images: a service on these cores cannot be faster.
Medians of {rounds} rounds; lowest and highest share in parentheses."""
STAGES = """\
CPU milliseconds of an image by stage, measured without the service, and their shares of the encoder's process:
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the tables go to stdout at the end."""
    options = _parser().parse_args(arguments)
    logging.disable_progress_bar()
    print(f"{machine(torch.device('cpu'))}, {os.cpu_count()} cores; torch {torch.__version__}\n")
    print(EXPLANATION.format(callers=options.callers, rounds=options.rounds), flush=True)
    with tempfile.TemporaryDirectory(prefix="visionsplit-encoder-") as folder:
        model = _model(options.model, Path(folder) / "model")
        images = inputs.write_images(Path(folder) / "images", range(options.images))
        rounds = list(_rounds(model, images, options))
    print("", report.speeds(rounds), STAGES, report.stages(rounds), sep="\n", flush=True)
    return 0


def _rounds(model: Path, images: Path, options: argparse.Namespace) -> Iterator[report.Round]:
    arguments = ["--model", str(model), "--cache-bytes", "0", *options.encoder_args.split()]
    encoder = Service("encoder_service", arguments, f"127.0.0.1:{free_port()}", environment={})
    encoder.start()
    try:
        encoder.wait_until_serving()
        with _bare(model, images, options.callers) as bare:
            files = read(images)
            _busy(encoder, files, options.callers, options.callers * 2 + 1)  # loads kernels and fills caches
            for _ in range(options.rounds):
                yield report.Round(_next(bare), _busy(encoder, files, options.callers, options.requests))
    finally:
        encoder.stop()


def _busy(encoder: Service, images: Sequence[bytes], callers: int, number: int) -> tuple[Served, ...]:
    return tuple(
        asyncio.run(keep_busy(encoder, images, condition, callers=callers, number=number)) for condition in CONDITIONS
    )


@contextmanager
def _bare(model: Path, images: Path, callers: int) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "benchmarks.encoder_overhead.bare", "--model", str(model), "--images", str(images)]
    command += ["--callers", str(callers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready", "the bare tower's process ended"
        yield process  # leaving closes its input, which ends it


def _next(bare: "subprocess.Popen[str]") -> Bare:
    """Let the other process measure once."""
    assert bare.stdin is not None
    assert bare.stdout is not None
    bare.stdin.write("\n")
    bare.stdin.flush()
    return Bare(**json.loads(bare.stdout.readline()))


def _model(name: str, folder: Path) -> Path:
    if name != LLAVA_NEXT:
        return inputs.checkpoint(name, folder)
    vision = {field: getattr(CLIP_L, field) for field in _CLIP_FIELDS}
    tile = CLIP_L.image_size
    pinpoints = [[tile * rows, tile * columns] for rows, columns in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
    return tiny_checkpoint(folder, pinpoints=pinpoints, vision=vision)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.encoder_overhead", description=__doc__.partition("\n")[0]
    )
    add = parser.add_argument
    add(
        "--model",
        default=inputs.PROPORTIONED,
        metavar="NAME",
        help=f"checkpoint's folder, {inputs.PROPORTIONED} (a small tower), {LLAVA_NEXT} (CLIP ViT-L/14 at 336 pixels) "
        f"or {inputs.TINY} (default: %(default)s)",
    )
    add("--images", type=int, default=64, metavar="N", help="different image files (default: %(default)s)")
    add("--callers", type=int, default=16, metavar="N", help="callers at one time (default: %(default)s)")
    add("--requests", type=int, default=128, metavar="N", help="per condition and round (default: %(default)s)")
    add("--rounds", type=int, default=5, metavar="N", help="repetitions in turn (default: %(default)s)")
    add("--encoder-args", default="", metavar="ARGS", help="further options of the encoder, in one argument")
    return parser


if __name__ == "__main__":
    sys.exit(main())
