"""`python -m tests.batch_kills --images 5000`: a killed batch job must write the same as an uninterrupted one.

It is killed at random moments, on a tiny checkpoint, with services beside it or with services that it starts on Ray.
One image in fifty is broken. Exit code 1 if the two outputs differ.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from encoder_service.config import CacheLimits
from tests.checkpoints import tiny_checkpoint
from tests.integration.system import running_system

_SIZES = [(60, 40), (112, 112), (30, 90), (200, 70)]
_BROKEN_EVERY = 50
_VISIONSPLIT = Path(sys.executable).parent / "visionsplit"


def make_images(folder: Path, number: int, *, seed: int = 0) -> set[str]:
    """Write JPEG files, no two alike, in folders of a hundred; returns the names of the broken ones."""
    generator = np.random.default_rng(seed)
    broken = set()
    for index in range(number):
        path = folder / f"{index // 100:03d}" / f"{index:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if index % _BROKEN_EVERY == 7:
            path.write_bytes(generator.bytes(200))
            broken.add(str(path.relative_to(folder)))
            continue
        noise = generator.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(_SIZES[index % len(_SIZES)]).save(path, quality=90)
    return broken


class BatchRun:
    """`visionsplit batch caption` on some images, again and again into one folder."""

    def __init__(self, images: Path, output: Path, options: Sequence[str]) -> None:
        self.command = [str(_VISIONSPLIT), "batch", "caption", str(images), "--output", str(output), *options]
        self.output = output

    async def start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self.command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True
        )

    async def working(self) -> asyncio.subprocess.Process:
        """Start, and wait until it has written something new or ended."""
        before = self._written()
        process = await self.start()
        while process.returncode is None and self._written() == before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return process

    async def finish(self) -> tuple[int, str]:
        """Run to the end; the exit code and all that was printed."""
        process = await self.start()
        output, problems = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode() + problems.decode()

    async def killed(self, seconds: float) -> bool:
        """Run, and kill it this many seconds after it has written something new; whether it was still running then."""
        process = await self.working()
        await asyncio.sleep(seconds)
        running = process.returncode is None
        if running:
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()
        return running

    def rows(self) -> list[dict[str, Any]]:
        """All answers in the order of the files, but for their timings, which no two runs share."""
        lines = [line for path in sorted(self.output.glob("part-*.jsonl")) for line in path.read_text().splitlines()]
        return [{key: value for key, value in json.loads(line).items() if key != "timings"} for line in lines]

    def errors(self) -> list[dict[str, Any]]:
        path = self.output / "errors.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _written(self) -> int:
        return sum(path.stat().st_size for path in self.output.rglob("part-*") if path.is_file())


@asynccontextmanager
async def workers(model: Path, *, on_ray: bool) -> AsyncIterator[list[str]]:
    """The options that say who does the work; services run until the end."""
    if on_ray:
        yield ["--model", str(model)]
        return
    # A second run over the same images would find them in a cache, and end before it is killed.
    async with running_system(model, encoder={"cache": CacheLimits(memory_bytes=0)}) as system:
        yield ["--encoder", system.encoder_address]


async def compare(
    model: Path, folder: Path, *, images: int, kills: int, rows_per_file: int, seed: int = 0, on_ray: bool = False
) -> list[str]:
    """Everything that is not as it should be; prints what happened."""
    chance = random.Random(seed)
    broken = make_images(folder / "images", images)
    faults = []
    async with workers(model, on_ray=on_ray) as options:
        options += ["--rows-per-file", str(rows_per_file), "--ratio", "0.25", "--max-new-tokens", "4", "--quiet"]
        whole = BatchRun(folder / "images", folder / "whole", options)
        started = time.monotonic()
        code, text = await whole.finish()
        seconds = time.monotonic() - started
        print(f"unbroken: exit code {code}, {seconds:.1f} s, {images / seconds:.1f} images/s {text.strip()}")
        often = BatchRun(folder / "images", folder / "often", options)
        hits = 0
        for number in range(kills):
            hit = await often.killed(chance.uniform(0, 0.6 * seconds / kills))
            hits += hit
            print(f"kill {number + 1}: {'' if hit else 'too late, '}{len(often.rows())} rows in whole parts")
        code, text = await often.finish()
        print(f"resumed: exit code {code} {text.strip()}")
    if hits < kills:
        faults.append(f"only {hits} of {kills} kills came before the end")
    ids = [row["id"] for row in often.rows()]
    if len(set(ids)) < len(ids):
        faults.append("an id comes twice")
    if code != 3:
        faults.append(f"exit code {code}, though rows failed")
    if often.rows() != whole.rows():
        faults.append(f"{len(often.rows())} rows differ from the unbroken run's {len(whole.rows())}")
    if len(ids) + len(broken) != images:
        faults.append(f"{len(ids)} answers and {len(broken)} broken images make no {images}")
    for run in (whole, often):
        if {row["id"] for row in run.errors()} != broken or len(run.errors()) != len(broken):
            faults.append(f"{run.output.name}: the list of errors is not that of the broken images")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.batch_kills", description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--rows-per-file", type=int, default=500)
    parser.add_argument("--on-ray", action="store_true", help="Let the job start its services on Ray.")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = tiny_checkpoint(folder / "model")
        faults = asyncio.run(
            compare(
                model,
                folder,
                images=options.images,
                kills=options.kills,
                rows_per_file=options.rows_per_file,
                seed=options.seed,
                on_ray=options.on_ray,
            )
        )
    for fault in faults:
        print(f"batch_kills: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
