"""Where a process spends its time, by py-spy, which Ray brings along."""

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

_PY_SPY = Path(sys.executable).parent / "py-spy"
_RATE = 100  # samples a second
# A stack belongs to what its innermost known frame is of.
_PARTS = (
    ("grpcio: messages and sockets", ("grpc/",)),
    ("Ray", ("ray/",)),
    ("protobuf messages", ("google/protobuf", "_pb2.py")),
    ("visionsplit", ("llm_service/", "visionsplit/")),
    ("asyncio and threads", ("asyncio/", "threading.py", "concurrent/")),
)


def shares_of(pid: int, seconds: float) -> dict[str, float]:
    """Share of the samples in which a process held the interpreter's lock, by what ran; the largest first.

    Raises:
        RuntimeError: py-spy cannot read the process.
    """
    with tempfile.TemporaryDirectory() as folder:
        stacks = Path(folder) / "stacks"
        command = [str(_PY_SPY), "record", "--pid", str(pid), "--duration", str(round(seconds)), "--rate", str(_RATE)]
        done = subprocess.run(
            [*command, "--gil", "--format", "raw", "--full-filenames", "--output", str(stacks)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"py-spy: {done.stderr[-500:]}")
        lines = stacks.read_text().splitlines()
    counts: Counter[str] = Counter()
    for line in lines:
        stack, _, samples = line.rpartition(" ")
        counts[_part(stack)] += int(samples)
    whole = sum(counts.values())
    return {part: count / whole for part, count in counts.most_common()}


def _part(stack: str) -> str:
    for frame in reversed(stack.split(";")):
        for part, names in _PARTS:
            if any(name in frame for name in names):
                return part
    return "other"
