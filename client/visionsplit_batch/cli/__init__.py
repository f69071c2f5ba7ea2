"""`visionsplit batch caption|encode|ask INPUT... --output FOLDER`: a whole dataset, with running services or on Ray.

Exit codes: 0 every row has its answer; 1 the job broke off, and goes on where it was when the same command is started
again; 2 refused: wrong usage, or an input or output folder that cannot be used so; 3 done, but rows failed: they are in
errors.jsonl; 4 done, but files of the input were left out, as the summary says; 130 stopped with Ctrl-C, 143 with
SIGTERM.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence

from visionsplit.errors import InvalidRequestError, VisionSplitError
from visionsplit_client.cli import _options as shared
from visionsplit_client.cli._signals import ended_by_sigterm

from visionsplit_batch.cli import _jobs, _options
from visionsplit_batch.errors import InputError, RefusedRunError
from visionsplit_batch.left_out import needs_attention

__all__ = ["main"]

_FAILED, _REFUSED, _ROWS_FAILED, _LEFT_OUT, _INTERRUPTED, _TERMINATED = 1, 2, 3, 4, 130, 143
# The same command would end with these again; the last is Python's own for an option's value.
_REFUSALS = (InputError, RefusedRunError, InvalidRequestError, ValueError)


class _Terminated(BaseException):
    """SIGTERM, as KeyboardInterrupt is SIGINT: what is under way is given up, what is done stays."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one job and return its exit code. A wrong usage raises SystemExit(2), as argparse does."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if args.verbose else logging.WARNING, format="%(levelname)s %(message)s")
    try:
        with ended_by_sigterm(_Terminated()):
            summary, left_out = _jobs.run(args)
    except (VisionSplitError, OSError, ValueError) as error:
        if args.json:
            print(json.dumps({"event": "error", "error": type(error).__name__, "message": str(error)}))
        print(f"visionsplit: {error}", file=sys.stderr)
        return _REFUSED if isinstance(error, _REFUSALS) else _FAILED
    except (KeyboardInterrupt, _Terminated) as stop:
        print("visionsplit: stopped; the same command goes on from here", file=sys.stderr)
        return _TERMINATED if isinstance(stop, _Terminated) else _INTERRUPTED
    if summary.held.failed:
        return _ROWS_FAILED
    return _LEFT_OUT if needs_attention(left_out) else 0


def _parser() -> argparse.ArgumentParser:
    parser = shared.OneLineParser(
        prog="visionsplit batch", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="kind")
    for kind, text in (
        ("caption", "captions or answers about images"),
        ("encode", "vision tokens of images, to ask about later"),
        ("ask", "answers about vision tokens that `batch encode` wrote"),
    ):
        _options.add(commands.add_parser(kind, help=text, description=text), kind)
    return parser
