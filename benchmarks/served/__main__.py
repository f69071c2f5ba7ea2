"""`python -m benchmarks.served` measures both services on one device: throughput, latency, and the device's memory.

    python -m benchmarks.served --shape 7b [--device cuda] [--seconds 150] [--out out/served-7b.json]

The model has random weights. The most important cells come first. Each is saved when it is done, and cells for which no
time is left are not measured.
"""

import argparse
import asyncio
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.efficiency.tables import markdown
from benchmarks.load.system import Service, free_port
from benchmarks.selection_cost import machine
from benchmarks.served.cells import Cell, Meter
from benchmarks.served.shapes import SHAPES

_RATIOS = (1.0, 0.1, 0.25, 0.5)
CELLS = (
    *(Cell("both", callers, ratio) for callers in (16, 64) for ratio in _RATIOS),
    *(Cell("llm", 64, ratio) for ratio in _RATIOS),
    *(Cell("encoder", 16, ratio) for ratio in (1.0, 0.1)),
    *(Cell("both", callers, ratio) for callers in (1, 4) for ratio in _RATIOS),
)
_MEMORY_FOLDER = Path("/dev/shm")  # weights are written there if it is large enough: a disk would take longer
_ROOM_BYTES = 40 * 2**30


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.served", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--shape", choices=SHAPES, default="7b", help="the model's shape (%(default)s); tiny shows whether it works")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: a GPU if there is one")
    add("--new-tokens", type=int, default=64, help="tokens of an answer (%(default)s)")
    add("--seconds", type=float, default=150, help="for everything; cells that would end later are left out")
    add("--cell-seconds", type=float, default=6, help="for each cell, after a third of it to warm up (%(default)s)")
    add("--cells", type=int, default=len(CELLS), help="the most cells to measure (default: all %(default)s)")
    add("--out", type=Path, help="a JSON file for the results (out/served-SHAPE.json)")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + options.seconds
    out: Path = options.out or Path("out") / f"served-{options.shape}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_roomy_folder()) as folder:
        model = Path(folder) / options.shape
        command = [sys.executable, "-m", "benchmarks.served.shapes", options.shape, str(model), options.device]
        subprocess.run(command, check=True)
        with _services(model, options.device) as (encoder, llm):
            found = asyncio.run(_measure(encoder, llm, options, out, deadline))
    print(_table(found))
    return 0


async def _measure(encoder: str, llm: str, options: argparse.Namespace, out: Path, deadline: float) -> dict[str, Any]:
    """Measure cells while time remains; save all results after each."""
    device = torch.device(options.device)
    found: dict[str, Any] = {
        **{"machine": machine(device), "shape": options.shape, "new_tokens": options.new_tokens},
        **{"torch": torch.__version__, "cells": [], "left_out": []},
    }
    warm_seconds = options.cell_seconds / 3
    side = SHAPES[options.shape].image_side
    async with Meter(encoder, llm, image_side=side, new_tokens=options.new_tokens) as meter:
        await meter.measure(Cell("both", 4, 1.0), warm_seconds=0, seconds=warm_seconds)
        for cell in CELLS[: options.cells]:
            if time.monotonic() + warm_seconds + options.cell_seconds > deadline:
                found["left_out"].append(dataclasses.asdict(cell))
                continue
            result = await meter.measure(cell, warm_seconds=warm_seconds, seconds=options.cell_seconds)
            found["cells"].append({**dataclasses.asdict(result), "device_bytes": _device_bytes(device)})
            _save(found, out)
    _save(found, out)
    return found


def _save(found: dict[str, Any], out: Path) -> None:
    out.write_text(json.dumps(found, indent=1) + "\n")


@contextmanager
def _services(model: Path, device: str) -> Iterator[tuple[str, str]]:
    """The addresses of an encoder without a cache and an LLM service, in processes that share the device."""
    encoder, llm = (f"127.0.0.1:{free_port()}" for _ in range(2))
    arguments = ["--model", str(model)]
    services = (
        # First: the LLM service takes a share of the memory that it finds free.
        Service("encoder_service", [*arguments, "--llm", llm, "--cache-bytes", "0"], encoder, device=device),
        Service("llm_service", arguments, llm, device=device),
    )
    with ExitStack() as stack:
        for service in services:
            service.start()
            stack.callback(service.stop)
            service.wait_until_serving()
        yield encoder, llm


def _roomy_folder() -> Path | None:
    """None is the system's folder for temporary files."""
    if not _MEMORY_FOLDER.is_dir():
        return None
    free = psutil.disk_usage(str(_MEMORY_FOLDER)).free
    return _MEMORY_FOLDER if free > _ROOM_BYTES else None


def _device_bytes(device: torch.device) -> int | None:
    """Memory of the GPU that all processes have taken; PyTorch keeps what it has taken once."""
    return torch.cuda.device_memory_used(device) if device.type == "cuda" else None


def _table(found: dict[str, Any]) -> str:
    rows = []
    for result in found["cells"]:
        cell, memory = Cell(**result["cell"]), result["device_bytes"]
        rows.append(
            (
                *(cell.part, str(cell.callers), f"{cell.ratio:.0%}", str(result["prompt_tokens"])),
                *(f"{result['images_per_second']:.2f}", f"{result['tokens_per_second']:.0f}"),
                *(_milliseconds(result["first_seconds"]), _milliseconds(result["gap_seconds"])),
                "" if memory is None else f"{memory / 1e9:.1f}",
            )
        )
    header = ("halves", "callers", "kept", "prompt tokens", "images/s", "tokens/s", "first token ms", "next token ms")
    left = "".join(f"\nNo time was left for {Cell(**cell)}." for cell in found["left_out"])
    return f"## Served, {found['shape']}, {found['machine']}\n\n{markdown((*header, 'GPU GB'), rows)}{left}"


def _milliseconds(percentiles: Sequence[float]) -> str:
    return ", ".join(f"{1e3 * seconds:.0f}" for seconds in percentiles)


if __name__ == "__main__":
    sys.exit(main())
