"""`visionsplit plan ...`: how many encoders a language model needs. It lies beside the batch jobs that it plans."""

import argparse
import sys

from visionsplit_client.cli import _options


def add_parser(commands: _options.Subparsers) -> None:
    # Its options are its own, --help included: this only passes them on.
    parser = commands.add_parser(
        "plan", help="measure how many encoders a language model needs", add_help=False, prefix_chars="\0"
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    try:
        from visionsplit_batch.planning.command import main
    except ImportError as error:
        print(f"visionsplit: planning needs visionsplit[batch]: {error}", file=sys.stderr)
        return 1
    return main(args.arguments)
