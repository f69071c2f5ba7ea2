"""`visionsplit batch ...`: whole datasets. What it does lies in a package that needs more than the client."""

import argparse
import sys

from visionsplit_client.cli import _options


def add_parser(commands: _options.Subparsers) -> None:
    # Its options are its own, --help included: this only passes them on.
    parser = commands.add_parser(
        "batch", help="caption, encode or ask about a whole dataset", add_help=False, prefix_chars="\0"
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    try:
        from visionsplit_batch.cli import main
    except ImportError as error:
        print(f"visionsplit: batch jobs need visionsplit[batch]: {error}", file=sys.stderr)
        return 1
    return main(args.arguments)
