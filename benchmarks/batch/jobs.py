"""Runs the batch command and the services that it needs as users start them: separate processes, default settings."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.batch.loop import Caption, LoopRun

_VISIONSPLIT = str(Path(sys.executable).parent / "visionsplit")
_STOP_SECONDS = 60
METHOD = "globalcom2"


class FailedError(Exception):
    """A command failed."""


@dataclass(frozen=True)
class LoopRuns:
    """The results of the loop's process."""

    start_seconds: float  # until the model is loaded and has captioned an image
    threads: int
    torch: str  # version
    runs: tuple[LoopRun, ...]  # by batch size

    @property
    def best(self) -> LoopRun:
        return min(self.runs, key=lambda run: run.seconds)


@dataclass(frozen=True)
class JobRun:
    """The results of one batch job."""

    seconds: float  # from the start of the first row to the end of the last, from the job's summary
    command_seconds: float  # of the whole command
    vision_tokens: float  # per image, without compression
    kept: float  # share of these that is kept
    busy: Mapping[str, float]  # share of the time that each stage's places were taken
    captions: Mapping[str, Caption]  # by file name


def loop(model: Path, images: Path, batch_sizes: Sequence[int], prompt: str, max_new_tokens: int) -> LoopRuns:
    """Run the loop on all images, once per batch size.

    Raises:
        FailedError: it ended with an error.
    """
    command = [sys.executable, "-m", "benchmarks.batch.loop", "--model", str(model), "--images", str(images)]
    command += ["--prompt", prompt, "--max-new-tokens", str(max_new_tokens), "--batch-sizes", *map(str, batch_sizes)]
    started = time.monotonic()
    found = json.loads(_output(command))
    seconds = time.monotonic() - started
    runs = tuple(
        LoopRun(**{**run, "captions": {name: Caption(**caption) for name, caption in run["captions"].items()}})
        for run in found["runs"]
    )
    start_seconds = seconds - sum(run.seconds for run in runs)
    return LoopRuns(start_seconds, found["threads"], found["torch"], runs)


def job(
    images: Path, output: Path, options: Sequence[str], *, ratio: float, prompt: str, max_new_tokens: int
) -> JobRun:
    """Run `visionsplit batch caption` from start to end.

    Args:
        output: a folder that does not exist yet.
        options: where the work is done: the services' addresses, or a model.

    Raises:
        FailedError: it ended with an error, or rows failed.
    """
    command = [_VISIONSPLIT, "batch", "caption", str(images), "--output", str(output), "--json", *options]
    command += ["--method", METHOD, "--ratio", f"{ratio:g}"]
    command += ["--prompt", prompt, "--max-new-tokens", str(max_new_tokens)]
    started = time.monotonic()
    events = _output(command).splitlines()
    command_seconds = time.monotonic() - started
    summary = json.loads(events[-1])
    lines = [line for path in sorted(output.glob("part-*.jsonl")) for line in path.read_text().splitlines()]
    rows = [json.loads(line) for line in lines]
    captions = {row["id"]: Caption(row["caption"], row["answers"][0]["generated_tokens"]) for row in rows}
    before, kept = summary["tokens_before"] / len(rows), summary["tokens_after"] / summary["tokens_before"]
    return JobRun(summary["seconds"], command_seconds, before, kept, summary["stages"], captions)


@contextmanager
def services(model: Path) -> Iterator[tuple[str, float]]:
    """Run `visionsplit up` on free ports: the encoder's address, and the seconds until both services answered.

    Without the encoder's cache: every image is captioned at several ratios here, and a dataset has each image once.

    Raises:
        FailedError: they did not start.
    """
    command = [_VISIONSPLIT, "up", "--model", str(model), "--device", "cpu", "--quiet"]
    command += ["--encoder", "127.0.0.1:0", "--llm", "127.0.0.1:0", "--encoder-args=--cache-bytes 0"]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = ""
            for line in process.stdout:  # the loop ends without a return if the services could not be started
                if line.startswith("encoder service: "):
                    address = line.partition(": ")[2].strip()
                    break
            if not address:
                raise FailedError("the services did not start")
            yield address, time.monotonic() - started
        finally:
            process.terminate()
            process.wait(_STOP_SECONDS)


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FailedError(f"{' '.join(command[:4])} ... ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout
