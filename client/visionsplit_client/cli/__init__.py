"""The command-line tool `visionsplit`.

Exit codes: 0 done; 1 a call failed, with one line on stderr; 2 wrong usage; 130 stopped with Ctrl-C.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import visionsplit
from visionsplit.errors import VisionSplitError

from visionsplit_client.cli import (
    _ask,
    _batch,
    _caption,
    _encode,
    _health,
    _info,
    _options,
    _plan,
    _report,
    _top,
    _up,
    _visualize,
)

__all__ = ["main"]

_COMMANDS = (_up, _caption, _ask, _encode, _batch, _plan, _visualize, _info, _health, _top)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. A wrong usage raises SystemExit(2), as argparse does."""
    _replace_closed_streams()
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()  # here, where a reader that has left is expected
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has left, as `head` does; the interpreter must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(arguments: Sequence[str] | None) -> int:
    args = _parser().parse_args(arguments)
    try:
        code: int = args.run(args)
    except BrokenPipeError:
        raise
    except (VisionSplitError, OSError, ValueError) as error:
        message = _report.message(error, _images(args))
        if getattr(args, "json", False):
            _report.print_json({"error": _report.failure(error, message)})
        print(f"visionsplit: {message}", file=sys.stderr)
        return 1
    return code


def _images(args: argparse.Namespace) -> Sequence[str]:
    """The images' names in the order in which the services count them."""
    if hasattr(args, "image"):
        return [args.image]
    names: Sequence[str] = getattr(args, "images", ())
    return getattr(args, "tokens", None) or names


def _replace_closed_streams() -> None:
    """A stream that the shell has closed (`>&-`) is None; then the next file or socket opened would get its number."""
    nowhere = Path(os.devnull)
    sys.stdout = sys.stdout or nowhere.open("w")
    sys.stderr = sys.stderr or nowhere.open("w")


def _parser() -> argparse.ArgumentParser:
    parser = _options.OneLineParser(
        prog="visionsplit", description="Ask questions about high-resolution images, with most vision tokens left out."
    )
    parser.add_argument("--version", action="version", version=f"visionsplit {visionsplit.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser
