"""Options that several commands share."""

import argparse
import math
import os
from contextlib import suppress
from typing import Any, NoReturn

from visionsplit.addresses import split_host_port
from visionsplit.wire.security.client import ClientSecurity
from visionsplit.wire.security.command_line import add_client_options, client_security_from
from visionsplit.wire.security.tokens import TOKEN_VARIABLE, BearerToken

from visionsplit_client._base import DEFAULT_ENCODER
from visionsplit_client._client import Client
from visionsplit_client._options import (
    DATA_TYPES,
    DEFAULT_METHOD,
    LAYOUTS,
    POSITION_IDS,
    Compression,
    Pruning,
    Sampling,
)

DEFAULT_LLM = "127.0.0.1:50052"
DEFAULT_TIMEOUT = 120.0
METRICS = {"encoder": "127.0.0.1:9051", "llm": "127.0.0.1:9052"}  # where services of `up --metrics` serve them

Subparsers = Any  # argparse keeps this type private
_NEEDS_RATIO = (None, DEFAULT_METHOD, "globalcom2")


class OneLineParser(argparse.ArgumentParser):
    """One line for a wrong usage; argparse's own lists every option first."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


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
    add_security(parser)
    parser.set_defaults(parser=parser)  # for what only turns out to be wrong once all options are known


def add_security(parser: argparse.ArgumentParser) -> None:
    add_client_options(parser, service="the services")


def security_from(args: argparse.Namespace) -> ClientSecurity:
    """The token may also come from the environment, where it shows in no list of processes."""
    token = BearerToken(environment=TOKEN_VARIABLE) if TOKEN_VARIABLE in os.environ else None
    return client_security_from(args, fallback=token)


def add_compression(parser: argparse.ArgumentParser, *, ratio: bool = True) -> None:
    group = parser.add_argument_group(
        "compression",
        "Without any of these, the encoder's default. "
        + (f"--ratio alone means {DEFAULT_METHOD}; nearly every method needs a ratio." if ratio else ""),
    )
    group.add_argument("--method", "--compression", metavar="NAME", help=f"such as none or {DEFAULT_METHOD}; see info")
    if ratio:
        group.add_argument("--ratio", type=float, metavar="SHARE", help="share of the vision tokens to keep, in (0, 1]")
    group.add_argument("--layout", choices=LAYOUTS, help="order of the kept tokens")
    group.add_argument("--score", metavar="NAME", help="replaces the method's score")
    group.add_argument("--budget", metavar="NAME", help="replaces the method's budget")
    group.add_argument("--selection", metavar="NAME", help="replaces the method's selection")
    group.add_argument("--merging", metavar="NAME", help="replaces the method's merging")
    group.add_argument(
        "--parameter",
        action="append",
        default=[],
        type=_parameter,
        metavar="NAME=NUMBER",
        help="of the method, such as tau=10; may be repeated",
    )
    group.add_argument(
        "--guidance", metavar="TEXT", help="for a method that looks at a text; without it, it reads the question"
    )
    group.add_argument("--data-type", choices=DATA_TYPES, help="how tokens travel")
    if ratio:
        group.add_argument(
            "--quotas-only",
            action="store_true",
            help="send every token; pruning in the language model keeps as many of each tile as the method would",
        )
    else:  # such a command shows what the encoder keeps
        parser.set_defaults(quotas_only=False)


def add_prefill(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "language model", "Without --prune it keeps every vision token that it gets. It may follow any compression."
    )
    group.add_argument("--prune", metavar="METHOD", help="drop vision tokens between its layers; see info")
    group.add_argument("--prune-ratio", type=float, metavar="SHARE", help="share of the vision tokens to keep")
    group.add_argument(
        "--prune-set",
        action="append",
        default=[],
        type=_parameter,
        metavar="NAME=NUMBER",
        help="of the pruning method; may be repeated",
    )
    group.add_argument(
        "--position-ids",
        choices=POSITION_IDS,
        help="places of the tokens: counted through (default), or those that they have without compression",
    )


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
        return Client(args.encoder or DEFAULT_ENCODER, llm=args.llm, timeout=args.timeout, security=security_from(args))
    except ValueError as error:
        usage_error(args, str(error))


def check_folder(args: argparse.Namespace) -> None:
    """Refuse an output file that is the image, or whose folder does not exist, before any work is done for it."""
    folder = args.output.parent
    if not folder.is_dir():
        usage_error(args, f"cannot write {args.output}: there is no folder {folder}")
    with suppress(OSError, ValueError):  # the output is not there yet, or the image is not a path
        if args.output.samefile(args.image):
            usage_error(args, f"cannot write {args.output}: it is the image itself")


def usage_error(args: argparse.Namespace, message: str) -> NoReturn:
    """End with exit code 2 and one line."""
    parser: argparse.ArgumentParser = args.parser
    parser.error(message)


def compression_from(args: argparse.Namespace, *, ratio: float | None = None) -> Compression | None:
    """None if no option asks for anything. `ratio` stands in for the option where a command has its own."""
    ratio = args.ratio if ratio is None else ratio
    parts = (args.method, ratio, args.layout, args.score, args.budget, args.selection, args.merging, args.guidance)
    if all(part is None for part in parts) and not args.parameter and not args.quotas_only:
        return None
    # Of other methods and budgets the encoder knows whether they do without.
    if ratio is None and args.method in _NEEDS_RATIO and args.budget is None:
        usage_error(
            args, "the compression options need --ratio, the share of the vision tokens to keep (or --method none)"
        )
    return Compression(
        method=args.method or DEFAULT_METHOD,
        retention_ratio=ratio,
        layout=args.layout or "spatial",
        score=args.score,
        budget=args.budget,
        selection=args.selection,
        merging=args.merging,
        parameters=dict(args.parameter),
        quotas_only=args.quotas_only,
        guidance=args.guidance,
    )


def pruning_from(args: argparse.Namespace) -> Pruning | None:
    """None if no option asks for any. A wrong combination of options is a wrong usage."""
    if args.prune is None:
        for option, given in (("--prune-ratio", args.prune_ratio is not None), ("--prune-set", args.prune_set)):
            if given:
                usage_error(args, f"{option} needs --prune, the method that it is for")
        if args.quotas_only:
            usage_error(args, "--quotas-only needs --prune: pruning in the language model keeps to the quotas")
        return None
    return Pruning(args.prune, args.prune_ratio, dict(args.prune_set))


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


def host_port(text: str) -> str:
    try:
        split_host_port(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def positive_seconds(text: str) -> float:
    seconds = _number(text)
    if not (seconds > 0 and math.isfinite(seconds)):
        raise argparse.ArgumentTypeError(f"{text} is no positive number of seconds")
    return seconds


def _parameter(text: str) -> tuple[str, float]:
    name, separator, number = text.partition("=")
    if not (name and separator):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=NUMBER")
    return name, _number(number)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
