"""Options that several commands share."""

import argparse
import math
from typing import Any, NoReturn

from visionsplit_client._base import DEFAULT_ENCODER
from visionsplit_client._client import Client
from visionsplit_client._options import DATA_TYPES, LAYOUTS, Compression, Sampling

DEFAULT_LLM = "127.0.0.1:50052"
DEFAULT_TIMEOUT = 120.0

Subparsers = Any  # argparse keeps this type private
_METHOD = "globalcom2"  # where only a ratio is given


def add_connection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("services")
    group.add_argument(
        "--encoder",
        action="append",
        metavar="HOST:PORT",
        help=f"encoder service; repeat it to use several in turn (default: {DEFAULT_ENCODER})",
    )
    group.add_argument(
        "--llm", default=DEFAULT_LLM, metavar="HOST:PORT", help="LLM service, where it is asked directly (%(default)s)"
    )
    group.add_argument(
        "--timeout",
        type=positive_seconds,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="for each call, retries included (default: %(default)g)",
    )
    parser.set_defaults(parser=parser)  # for what only turns out to be wrong once all options are known


def add_compression(parser: argparse.ArgumentParser, *, ratio: bool = True) -> None:
    group = parser.add_argument_group(
        "compression",
        "Without any of these, the encoder's default. "
        + (f"--ratio alone means {_METHOD}; every method but none needs a ratio." if ratio else ""),
    )
    group.add_argument("--method", "--compression", metavar="NAME", help=f"such as none or {_METHOD}; see info")
    if ratio:
        group.add_argument("--ratio", type=float, metavar="SHARE", help="share of the vision tokens to keep, in (0, 1]")
    group.add_argument("--layout", choices=LAYOUTS, help="order of the kept tokens")
    group.add_argument("--score", metavar="NAME", help="replaces the method's score")
    group.add_argument("--budget", metavar="NAME", help="replaces the method's budget")
    group.add_argument("--selection", metavar="NAME", help="replaces the method's selection")
    group.add_argument(
        "--parameter",
        action="append",
        default=[],
        type=_parameter,
        metavar="NAME=NUMBER",
        help="of the method, such as tau=10; may be repeated",
    )
    group.add_argument("--data-type", choices=DATA_TYPES, help="how tokens travel")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("decoding")
    group.add_argument("--max-new-tokens", type=int, metavar="N")
    group.add_argument("--temperature", type=float, metavar="T", help="0 decodes greedily (default)")
    group.add_argument("--top-p", type=float, metavar="P")
    group.add_argument("--top-k", type=int, metavar="K")
    group.add_argument("--seed", type=int, metavar="N")
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help="may be repeated")
    group.add_argument("--repetition-penalty", type=float, metavar="R")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def client_from(args: argparse.Namespace) -> Client:
    """A wrong address is a wrong usage."""
    try:
        return Client(args.encoder or DEFAULT_ENCODER, llm=args.llm, timeout=args.timeout)
    except ValueError as error:
        usage_error(args, str(error))


def check_folder(args: argparse.Namespace) -> None:
    """Refuse an output file whose folder does not exist, before any work is done for it."""
    folder = args.output.parent
    if not folder.is_dir():
        usage_error(args, f"cannot write {args.output}: there is no folder {folder}")


def usage_error(args: argparse.Namespace, message: str) -> NoReturn:
    """End with exit code 2 and one line."""
    parser: argparse.ArgumentParser = args.parser
    parser.error(message)


def compression_from(args: argparse.Namespace, *, ratio: float | None = None) -> Compression | None:
    """None if no option asks for anything. `ratio` stands in for the option where a command has its own."""
    ratio = args.ratio if ratio is None else ratio
    parts = (args.method, ratio, args.layout, args.score, args.budget, args.selection)
    if all(part is None for part in parts) and not args.parameter:
        return None
    if ratio is None and args.method != "none":
        usage_error(
            args, "the compression options need --ratio, the share of the vision tokens to keep (or --method none)"
        )
    return Compression(
        method=args.method or _METHOD,
        retention_ratio=ratio,
        layout=args.layout or "spatial",
        score=args.score,
        budget=args.budget,
        selection=args.selection,
        parameters=dict(args.parameter),
    )


def sampling_from(args: argparse.Namespace) -> Sampling:
    return Sampling(
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        seed=args.seed,
        stop=args.stop,
        repetition_penalty=args.repetition_penalty,
    )


def positive_seconds(text: str) -> float:
    seconds = float(text)
    if not (seconds > 0 and math.isfinite(seconds)):
        raise argparse.ArgumentTypeError(f"{text} is no positive number of seconds")
    return seconds


def _parameter(text: str) -> tuple[str, float]:
    name, separator, number = text.partition("=")
    if not (name and separator):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=NUMBER")
    return name, float(number)
