"""The command-line tool `visionsplit`.

Exit codes: 0 done; 1 a call failed, with one line on stderr; 2 wrong usage; 130 stopped with Ctrl-C.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import visionsplit
from visionsplit.errors import VisionSplitError

from visionsplit_client.cli import _ask, _caption, _encode, _info, _up, _visualize

__all__ = ["main"]

_COMMANDS = (_up, _caption, _ask, _encode, _visualize, _info)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. argparse exits with 2 on its own."""
    parsed = _parser().parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has left, as `head` does; the interpreter must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (VisionSplitError, OSError, ValueError) as error:
        print(f"visionsplit: {error}", file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="visionsplit", description="Ask questions about high-resolution images, with most vision tokens left out."
    )
    parser.add_argument("--version", action="version", version=f"visionsplit {visionsplit.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser
