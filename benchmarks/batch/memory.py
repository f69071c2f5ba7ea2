"""`python -m benchmarks.batch.memory`: the memory of all processes of a long batch job, after a quarter and at its end.

On a tiny checkpoint, whose images take milliseconds, so that many rows go through. One in fifty is broken, and none
comes twice. Exit code 1 if a kind of process grew by more than is allowed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import psutil

from benchmarks.load.system import System
from tests.batch_kills import make_images
from tests.checkpoints import tiny_checkpoint

_VISIONSPLIT = str(Path(sys.executable).parent / "visionsplit")
_SETTLED = 0.25  # share of the rows after which caches, pools and heaps have their final size
_MIB = 2**20


@contextmanager
def _services(model: Path) -> Iterator[list[str]]:
    """Start separate services; the job's options. The encoder's cache is small, since no image comes twice."""
    with System.of(str(model), encoders=1) as system:
        yield ["--encoder", system.encoders[0].address]


def sample(root: psutil.Process) -> dict[str, float]:
    """Private memory of a process and its descendants, in MiB by kind."""
    taken: defaultdict[str, float] = defaultdict(float)
    for process in (root, *root.children(recursive=True)):
        try:
            memory = process.memory_info()
            taken[_kind(process)] += (memory.rss - memory.shared) / _MIB
        except psutil.NoSuchProcess:
            continue
    return dict(taken)


def _kind(process: psutil.Process) -> str:
    words: list[str] = process.cmdline()
    if "-m" in words[:3]:
        return words[words.index("-m") + 1]
    title = words[0] if words else str(process.name())
    if title.startswith("ray::"):
        return title.partition(".")[0].split()[0]
    return "the job" if any(word.endswith("visionsplit") for word in words[:2]) else "Ray itself"


def run(images: Path, output: Path, options: Sequence[str]) -> list[tuple[int, dict[str, float]]]:
    """Run one job to its end; return finished rows and memory every ten seconds."""
    command = [_VISIONSPLIT, "batch", "caption", str(images), "--output", str(output), "--json", *options]
    command += ["--ratio", "0.25", "--max-new-tokens", "4"]
    samples = []
    own = psutil.Process()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] not in ("progress", "summary"):
                continue
            ended = event["answered"] + event["failed"]
            if event["event"] == "progress":
                taken = sample(own)
                del taken[_kind(own)]
                samples.append((ended, taken))
                told = ", ".join(f"{name} {mib:.0f}" for name, mib in sorted(taken.items()))
                print(f"{ended:>7} rows, {event['rows_per_second']:.1f}/s; MiB: {told}", flush=True)
            else:
                print(f"{ended} rows in {event['seconds']:.0f} s", flush=True)
    if process.returncode not in (0, 3):
        raise RuntimeError(f"the job ended with {process.returncode}")
    return samples


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch.memory", description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--mode", choices=["services", "ray"], default="services")
    parser.add_argument("--allowed", type=float, default=0.1, help="growth of a kind of process (%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = tiny_checkpoint(folder / "model")
        make_images(folder / "images", options.images)
        with _services(model) if options.mode == "services" else nullcontext(["--model", str(model)]) as where:
            samples = run(folder / "images", folder / "output", where)
    settled = next(taken for rows, taken in samples if rows >= _SETTLED * options.images)
    last = samples[-1][1]
    grown = {kind: last[kind] / mib - 1 for kind, mib in settled.items() if kind in last}
    for kind, share in sorted(grown.items()):
        print(f"{kind}: {settled[kind]:.0f} MiB after a quarter, {last[kind]:.0f} MiB at the end ({share:+.1%})")
    return 1 if max(grown.values()) > options.allowed else 0


if __name__ == "__main__":
    sys.exit(main())
