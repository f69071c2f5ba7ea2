"""The command-line tool `visionsplit`.

Exit codes: 0 done; 1 a call failed, with one line on stderr; 2 wrong usage; 130 stopped with Ctrl-C.
"""

import argparse
import sys
from collections.abc import Sequence

import visionsplit
from visionsplit.command_line.parser import OneLineParser
from visionsplit.errors import VisionSplitError

from visionsplit_cli import ask, caption, encode, health, hints, image_arguments, info, output, report
from visionsplit_cli.batch import command as batch
from visionsplit_cli.local_services import up
from visionsplit_cli.parser import CommandParser
from visionsplit_cli.plan import command as plan
from visionsplit_cli.top import command as top
from visionsplit_cli.visualize import command as visualize

__all__ = ["build_parser", "main"]

_COMMANDS = (up, caption, ask, encode, batch, plan, visualize, info, health, top)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. A wrong usage raises SystemExit(2), as argparse does."""
    output.prepare_streams()
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()  # here, where a reader that has left is expected
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        output.abandon_stdout()
        return 1
    except OSError as error:  # a full disk, for instance
        output.abandon_stdout()
        output.warn(f"the output cannot be written: {error.strerror or error}")
        return 1


def _run(arguments: Sequence[str] | None) -> int:
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.command is None:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    try:
        code: int = args.run(args)
    except BrokenPipeError:
        raise
    except (VisionSplitError, OSError, ValueError) as error:
        message = hints.explained(error, _images(args))
        if getattr(args, "json", False):
            report.print_json({"error": report.failure(error, message)})
        output.warn(message)
        return 1
    return code


def _images(args: argparse.Namespace) -> Sequence[str]:
    """The images' names in the order in which the services count them."""
    if hasattr(args, "image"):
        return [image_arguments.shown(args.image)]
    names: Sequence[str] = getattr(args, "images", ())
    return getattr(args, "tokens", None) or [image_arguments.shown(name) for name in names]


def build_parser() -> argparse.ArgumentParser:
    """The command line, with a subcommand for each command."""
    parser = OneLineParser(
        prog="visionsplit", description="Ask questions about high-resolution images, with most vision tokens left out."
    )
    parser.add_argument("--version", action="version", version=f"visionsplit {visionsplit.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", parser_class=CommandParser)
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser
