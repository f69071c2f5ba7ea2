"""`visionsplit batch ...`: whole datasets. What it does lies in a package that needs more than the client."""

import argparse
import sys

from visionsplit_cli import options
from visionsplit_cli.passing import add_passing


def add_parser(commands: options.Subparsers) -> None:
    add_passing(commands, "batch", "caption, encode or ask about a whole dataset", run)


def run(args: argparse.Namespace) -> int:
    try:
        from visionsplit_cli.batch import main
    except ImportError as error:
        print(f"visionsplit: batch jobs need visionsplit[batch]: {error}", file=sys.stderr)
        return 1
    return main(args.arguments)
