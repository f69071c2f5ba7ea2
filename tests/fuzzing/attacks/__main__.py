"""`python -m tests.fuzzing.attacks`: attacks both services, each time beside a caller that keeps the rules.

Each line has the attack, how long it lasted, the question of the caller beside that suffered most with its seconds,
each service's memory before, at the peak and afterwards, what the attacker got, and "ok" or what fell short. The exit
code is 1 if anything fell short.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.fuzzing.attacks import ATTACKS
from tests.fuzzing.attacks.base import Attack
from tests.fuzzing.attacks.campaign import campaign


async def _run(attacks: Sequence[Attack], seconds: float, folder: Path | None) -> int:
    short = 0
    async for outcome in campaign(attacks, seconds=seconds, folder=folder):
        print(outcome.line(), flush=True)
        short += bool(outcome.faults)
    print(f"{len(attacks) - short} of {len(attacks)} attacks ok")
    return 1 if short else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing.attacks", description=__doc__)
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="Run the attacks whose names begin with NAME; may be repeated. Default: all attacks.",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=5.0,
        help="The duration of attacks that do not end by themselves. Default: %(default)g.",
    )
    parser.add_argument("--tls", action="store_true", help="Start the services with TLS and tokens. Default: off.")
    parser.add_argument("--list", action="store_true", help="Print the attacks' names and end.")
    options = parser.parse_args()
    names = tuple(options.only or ("",))
    attacks = [attack for attack in ATTACKS if attack.name.startswith(names)]
    if options.list:
        print("\n".join(attack.name for attack in attacks))
        return 0
    if not attacks:
        parser.error(f"no attack's name begins with {' or '.join(names)}; --list prints the names")
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_run(attacks, options.seconds, Path(folder) if options.tls else None))


if __name__ == "__main__":
    sys.exit(main())
