"""`visionsplit batch caption|encode|ask INPUT... --output FOLDER`: a whole dataset, with running services or on Ray.

Exit codes: 0 every row has its answer; 1 the job broke off, and goes on where it was when the same command is started
again; 2 refused: wrong usage, an input or output folder that cannot be used so, or too many rows that failed; 3 done,
but rows failed: they are in errors.jsonl; 4 done, but files of the input were left out, as the summary says; 130
stopped with Ctrl-C, 143 with SIGTERM.
"""

import argparse
import json
import logging

from visionsplit.errors import InvalidRequestError, VisionSplitError
from visionsplit.telemetry.log_lines import LineFormatter
from visionsplit_batch.errors import InputError, RefusedRunError, TooManyFailuresError
from visionsplit_batch.rows.left_out import needs_attention

from visionsplit_cli import options as shared
from visionsplit_cli import output
from visionsplit_cli.batch import options
from visionsplit_cli.signals import ended_by_sigterm

_FAILED, _REFUSED, _ROWS_FAILED, _LEFT_OUT, _INTERRUPTED, _TERMINATED = 1, 2, 3, 4, 130, 143
# The same command would end with these again; the last is Python's own for an option's value.
_REFUSALS = (InputError, RefusedRunError, TooManyFailuresError, InvalidRequestError, ValueError)


class _Terminated(BaseException):
    """SIGTERM, as KeyboardInterrupt is SIGINT: what is under way is cancelled, what is done stays."""


def add_parser(commands: shared.Subparsers) -> None:
    """Add the command, with a subcommand for each kind of job."""
    parser = commands.add_parser(
        "batch",
        help="caption, encode or ask about a whole dataset",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    kinds = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="kind")
    for kind, text in (
        ("caption", "Writes captions of images, or answers to questions about them."),
        ("encode", "Stores the vision tokens of images, to ask about them later."),
        ("ask", "Asks about vision tokens that `visionsplit batch encode` stored."),
    ):
        options.add(kinds.add_parser(kind, help=text, description=text), kind)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run one job and return its exit code."""
    try:
        from visionsplit_cli.batch import jobs
    except ImportError as error:
        output.warn(f"batch jobs need visionsplit[batch]: {error}")
        return 1
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO if args.verbose else logging.WARNING, handlers=[handler])
    try:
        with ended_by_sigterm(_Terminated()):
            summary, left_out = jobs.run(args)
    except (VisionSplitError, OSError, ValueError) as error:
        _report(args, type(error).__name__, str(error))
        return _REFUSED if isinstance(error, _REFUSALS) else _FAILED
    except (KeyboardInterrupt, _Terminated) as stop:
        name = "Terminated" if isinstance(stop, _Terminated) else "Interrupted"
        _report(args, name, "stopped; the same command goes on from here")
        return _TERMINATED if isinstance(stop, _Terminated) else _INTERRUPTED
    if summary.held.failed:
        return _ROWS_FAILED
    return _LEFT_OUT if needs_attention(left_out) else 0


def _report(args: argparse.Namespace, name: str, message: str) -> None:
    """Say why the job ended: with --json also as the last event."""
    if args.json:
        print(json.dumps({"event": "error", "error": name, "message": message}), flush=True)
    output.warn(message)
