"""Commands that lie in a package which needs more than the client."""

import argparse
from collections.abc import Callable

from visionsplit_cli import options


def add_passing(commands: options.Subparsers, name: str, text: str, run: Callable[[argparse.Namespace], int]) -> None:
    """A command whose options are its own, --help included: `run` finds them as `arguments` and only passes them on."""
    parser = commands.add_parser(name, help=text, add_help=False, prefix_chars="\0")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    parser.set_defaults(run=run)
