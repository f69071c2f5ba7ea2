"""`python -m tests.fuzzing --messages 10000`: hostile requests to both services on a tiny checkpoint.

Exit code 1 if a call ended in a way that is the services' own fault; the line says how to repeat that call alone.
`python -m tests.fuzzing.attacks` looks at what hostile callers do to others.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.checkpoints import tiny_checkpoint
from tests.fuzzing.check import check


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="send this one request")
    options = parser.parse_args()
    numbers = range(options.messages) if options.only is None else [options.only]
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(check(tiny_checkpoint(Path(folder)), seed=options.seed, numbers=numbers))
    for name, count in sorted(report.codes.items()):
        print(f"{count:>8}  {name}")
    print(f"memory grew by {report.grown_bytes / 2**20:.0f} MiB")
    for fault in report.faults:
        print(f"fuzzing: {fault}", file=sys.stderr)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
