"""The command-line tool `visionsplit`.

Exit codes: 0 done; 1 a call failed, with one line on stderr; 2 wrong usage; 130 stopped with Ctrl-C.
"""

import argparse
import sys
from collections.abc import Sequence

import visionsplit
from visionsplit.errors import VisionSplitError

from visionsplit_client.cli import (
    _ask,
    _batch,
    _caption,
    _encode,
    _given,
    _health,
    _hints,
    _info,
    _options,
    _output,
    _plan,
    _report,
    _top,
    _up,
    _visualize,
)
from visionsplit_client.cli._parser import CommandParser

__all__ = ["main"]

_COMMANDS = (_up, _caption, _ask, _encode, _batch, _plan, _visualize, _info, _health, _top)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. A wrong usage raises SystemExit(2), as argparse does."""
    _output.prepare_streams()
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()  # here, where a reader that has left is expected
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        _output.abandon_stdout()
        return 1
    except OSError as error:  # a full disk, for instance
        _output.abandon_stdout()
        _output.warn(f"the output cannot be written: {error.strerror or error}")
        return 1


def _run(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.command is None:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    try:
        code: int = args.run(args)
    except BrokenPipeError:
        raise
    except (VisionSplitError, OSError, ValueError) as error:
        message = _hints.explained(error, _images(args))
        if getattr(args, "json", False):
            _report.print_json({"error": _report.failure(error, message)})
        _output.warn(message)
        return 1
    return code


def _images(args: argparse.Namespace) -> Sequence[str]:
    """The images' names in the order in which the services count them."""
    if hasattr(args, "image"):
        return [_given.shown(args.image)]
    names: Sequence[str] = getattr(args, "images", ())
    return getattr(args, "tokens", None) or [_given.shown(name) for name in names]


def _parser() -> argparse.ArgumentParser:
    parser = _options.OneLineParser(
        prog="visionsplit", description="Ask questions about high-resolution images, with most vision tokens left out."
    )
    parser.add_argument("--version", action="version", version=f"visionsplit {visionsplit.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", parser_class=CommandParser)
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser
