"""`visionsplit plan ...`: how many encoders a language model needs. It lies beside the batch jobs that it plans."""

import argparse
import sys

from visionsplit_cli import options
from visionsplit_cli.passing import add_passing


def add_parser(commands: options.Subparsers) -> None:
    add_passing(commands, "plan", "measure how many encoders a language model needs", run)


def run(args: argparse.Namespace) -> int:
    try:
        from visionsplit_cli.plan.command import main
    except ImportError as error:
        print(f"visionsplit: planning needs visionsplit[batch]: {error}", file=sys.stderr)
        return 1
    return main(args.arguments)
