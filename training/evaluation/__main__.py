"""`python -m training.evaluation`: scores a checkpoint or a running system on the held-out scenes."""

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from visionsplit.command_line.parser import at_least
from visionsplit.errors import VisionSplitError
from visionsplit.model.dtypes import DTYPES
from visionsplit.options.conditions import CONDITION_FORM

from encoder_service.compression import METHODS
from training.evaluation.conditions import DEFAULT, THUMBNAIL, Condition, of_known_methods, parse_condition
from training.evaluation.results import Fact, Run
from training.evaluation.run import BATCH, evaluate, examples_of, in_process_settings, ordered_run, progress
from training.evaluation.summary import as_plain, summarise
from training.evaluation.tables import report

_CHANCE = "random@0.1"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; tables go to stdout, everything else to stderr."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.read:
        _refuse_what_changes_no_answer(parser, options)
    try:
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)  # created now, so that an error does not come after an hour
        run = Run.read(options.read) if options.read else _evaluate(options)
        if options.out:
            run.write(options.out)  # before anything is computed from it
        against = options.against if options.against is not None else [c for c in run.conditions if c == _CHANCE]
        summary = summarise(run, against=against)
        if options.out:
            (options.out / "summary.json").write_text(json.dumps(as_plain(summary), indent=2) + "\n")
            (options.out / "report.md").write_text(report(summary))
        if options.crowded is not None:
            summary = summarise(run.crowded(options.crowded), against=against)
    except (VisionSplitError, ValueError, OSError) as error:
        print(f"evaluation: {error}", file=sys.stderr)
        return 1
    print(report(summary), end="")
    return 0


def _refuse_what_changes_no_answer(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    for name in ("images", "first", "conditions", "max_new_tokens"):
        if getattr(options, name) != parser.get_default(name):
            parser.error(f"--{name.replace('_', '-')} is for asking; with --from the answers are there already")


def _evaluate(options: argparse.Namespace) -> Run:
    if options.encoder is None:
        return _evaluate_in_process(options)
    return asyncio.run(_evaluate_system(options))


def _evaluate_in_process(options: argparse.Namespace) -> Run:
    conditions = _conditions(options, METHODS)
    settings = in_process_settings(
        device=options.device,
        dtype=options.dtype,
        batch=options.batch,
        workers=options.workers,
        max_new_tokens=options.max_new_tokens,
    )
    return evaluate(options.model, conditions, settings, images=options.images, first=options.first)


async def _evaluate_system(options: argparse.Namespace) -> Run:
    # Here, so that a machine that only scores checkpoints needs none of the client's libraries.
    from visionsplit_client import AsyncClient

    from training.evaluation.system import RunningSystem

    async with AsyncClient(options.encoder) as client:
        system = RunningSystem(client, calls=options.calls, max_new_tokens=options.max_new_tokens)
        info = await system.info()
        offered = {method.name for method in info.methods}
        conditions = _conditions(options, offered, without=THUMBNAIL)
        examples = examples_of(range(options.first, options.first + options.images), info.tile_pixels)
        started = time.monotonic()
        with progress(examples, conditions) as bar:
            answers = await system.answers(examples, conditions, bar.update)
    facts: dict[str, Fact] = {
        "model": info.model,
        "vision weights": info.format.encoder_fingerprint,
        "encoder": f"{options.encoder} ({info.device}, visionsplit {info.version})",
        "wire": info.default_data_type,
        "first image": options.first,
        "most new tokens": options.max_new_tokens,
        "seconds": round(time.monotonic() - started, 1),
    }
    return ordered_run(facts, conditions, answers)


def _conditions(options: argparse.Namespace, methods: Collection[str], *, without: str = "") -> list[Condition]:
    """Those asked for; else the usual ones, as far as their methods exist here.

    Raises:
        ValueError: one has the wrong form, or those to compare with are not among them.
    """
    asked = options.conditions
    if asked is None:
        asked = [name for name in of_known_methods(DEFAULT, methods) if name != without]
        left_out = [name for name in DEFAULT if name not in asked]
        if left_out:
            print(f"evaluation: left out, for want of the method: {' '.join(left_out)}", file=sys.stderr)
    absent = [name for name in options.against or () if name not in asked]
    if absent:
        raise ValueError(f"--against {absent[0]} is not among the conditions")
    return [parse_condition(text) for text in dict.fromkeys(asked)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.evaluation", description=__doc__)
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--model", default="models/visionsplit-mini", help="checkpoint to load (default: %(default)s)")
    who.add_argument("--encoder", metavar="HOST:PORT", help="ask a running system instead")
    who.add_argument(
        "--from", dest="read", type=Path, metavar="FOLDER", help="ask nothing: the tables of an earlier run"
    )
    parser.add_argument("--images", type=_positive, default=600, help="held-out images (default: %(default)s)")
    parser.add_argument("--first", type=at_least(0), default=0, help="number of the first one (default: %(default)s)")
    parser.add_argument("--conditions", nargs="+", metavar="CONDITION", help=f"{CONDITION_FORM} or {THUMBNAIL}")
    parser.add_argument("--against", nargs="*", metavar="CONDITION", help="print every condition's difference to these")
    parser.add_argument(
        "--crowded",
        type=_share,
        metavar="SHARE",
        help="print the tables of those images in which one crop holds at least this share of what is drawn, 0 to 1",
    )
    parser.add_argument("--max-new-tokens", type=_positive, default=192, help="of an answer (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keep answers, summary and tables here")
    own = parser.add_argument_group("with --model")
    own.add_argument("--device", choices=sorted(BATCH), help="default: a GPU if there is one")
    own.add_argument("--dtype", choices=sorted(DTYPES), default="float32", help="default: %(default)s")
    own.add_argument("--batch", type=_positive, help=f"questions answered at once (default by device: {BATCH})")
    own.add_argument("--workers", type=at_least(0), help="processes that draw images; 0 draws in this one")
    running = parser.add_argument_group("with --encoder")
    running.add_argument("--calls", type=_positive, default=8, help="calls under way at once (default: %(default)s)")
    return parser


def _share(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is not a share between 0 and 1")


def _positive(text: str) -> int:
    number = at_least(0)(text)
    if number == 0:
        raise argparse.ArgumentTypeError("0 is not a positive whole number")
    return number


if __name__ == "__main__":
    sys.exit(main())
