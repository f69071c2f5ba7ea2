"""Options that several commands share."""

import argparse
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial
from typing import Any, NoReturn

from visionsplit.command_line.parser import (
    Kind,
    add_option,
    any_text,
    at_least,
    not_negative,
    number,
    one_of,
    positive,
    share,
)
from visionsplit.command_line.security_options import add_client_options, client_security_from
from visionsplit.errors import (
    InvalidCompressionError,
    InvalidPromptError,
    InvalidPruningError,
    InvalidSamplingError,
    VisionSplitError,
)
from visionsplit.options.compression import DEFAULT_METHOD, DEFAULT_RATIO, chosen_method
from visionsplit.options.data_types import DATA_TYPES
from visionsplit.options.layout import LAYOUTS
from visionsplit.options.prefill import POSITION_IDS
from visionsplit.security.client import ClientSecurity
from visionsplit.security.tokens import TOKEN_VARIABLE, BearerToken
from visionsplit_client import DEFAULT_ENCODER, Client, Compression, Pruning, Sampling

DEFAULT_LLM = "127.0.0.1:50052"
DEFAULT_TIMEOUT = 120.0
_COMPRESSION = frozenset(field.name for field in fields(Compression))
# The option that sets each field of a request, by the error that says what is wrong with the field.
FIELD_OPTIONS: Mapping[type[VisionSplitError], Mapping[str, str]] = {
    InvalidCompressionError: {
        "retention_ratio": "--ratio",
        "quotas_only": "--quotas-only",
        "guidance": "--guidance",
    },
    InvalidPromptError: {"guidance": "--guidance"},
    InvalidPruningError: {"retention_ratio": "--prune-ratio"},
    InvalidSamplingError: {
        field.name: f"--{field.name.replace('_', '-')}" for field in fields(Sampling) if field.name != "stop"
    },
}
METRICS = {"encoder": "127.0.0.1:9051", "llm": "127.0.0.1:9052"}  # where services of `up --metrics` serve them

_AS_LISTED = "the values in `visionsplit info`"
_name = replace(any_text, metavar="NAME")

Subparsers = Any  # argparse keeps this type private


def add_connection(parser: argparse.ArgumentParser) -> None:
    add = partial(add_option, parser.add_argument_group("services"))
    address = replace(any_text, metavar="HOST:PORT")  # which the client checks
    text = "The encoder service's address; repeat the option to use several in turn."
    add("--encoder", address, text, absent=DEFAULT_ENCODER, action="append")
    add("--llm", address, "The LLM service's address, for what is asked of that service directly.", DEFAULT_LLM)
    add("--timeout", positive, "The time limit of each call, retries included.", DEFAULT_TIMEOUT)
    add_security(parser)
    parser.set_defaults(parser=parser)  # for what only turns out to be wrong once all options are known


def add_security(parser: argparse.ArgumentParser) -> None:
    add_client_options(parser, service="the services")


def security_from(args: argparse.Namespace) -> ClientSecurity:
    """The token may also come from the environment, where it shows in no list of processes."""
    token = BearerToken(environment=TOKEN_VARIABLE) if TOKEN_VARIABLE in os.environ else None
    return client_security_from(args, fallback=token)


def add_compression(parser: argparse.ArgumentParser, *, ratio: bool = True) -> None:
    """The options behind `compression_from`; without --ratio for a command with other ratios."""
    group = parser.add_argument_group(
        "compression",
        f"Without any of these options, the encoder's default holds. --ratio alone means --method {DEFAULT_METHOD}."
        if ratio
        else "",
    )
    add = partial(add_option, group)
    add(
        "--method",
        _name,
        "How to choose the vision tokens to keep; `visionsplit info` lists the methods.",
        alias="--compression",
        absent=f"{DEFAULT_METHOD} with --ratio, else the encoder's" if ratio else DEFAULT_METHOD,
    )
    if ratio:
        add(
            "--ratio",
            share,
            "The share of the vision tokens to keep, above 0 and at most 1.",
            alias="--retention-ratio",
            absent=f"{DEFAULT_RATIO:g} with --method, for methods that need a ratio",
        )
    add("--layout", one_of(LAYOUTS), "The order of the kept tokens.", absent=LAYOUTS[0])
    for part, text in (
        ("score", "what a token is worth"),
        ("budget", "how many tokens each tile keeps"),
        ("selection", "which tokens are kept"),
        ("merging", "what the kept tokens take over from the others"),
    ):
        add(f"--{part}", _name, f"The method's {part}, {text}.", absent="the method's own")
    text = "A parameter of the method, such as tau=10; may be repeated."
    add("--parameter", _parameters, text, [], absent=_AS_LISTED, action="append")
    add_guidance(group, absent="the question")
    text = "The number format in which vision tokens are sent."
    add("--data-type", one_of(DATA_TYPES), text, absent="the encoder's")
    if ratio:
        group.add_argument(
            "--quotas-only",
            action="store_true",
            help="Send every token; --prune then keeps as many of each tile as the method would.",
        )


def add_guidance(group: argparse._ActionsContainer, *, absent: str) -> None:
    text = "The text by which a method such as cdpruner chooses tokens."
    add_option(group, "--guidance", any_text, text, absent=absent)


def add_prefill(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "language model",
        "Without --prune the language model keeps every vision token that it gets. --prune may follow any compression.",
    )
    add = partial(add_option, group)
    add(
        "--prune",
        replace(any_text, metavar="METHOD"),
        "How to drop vision tokens between the language model's layers; `visionsplit info` lists the methods.",
        absent="none are dropped",
    )
    add(
        "--prune-ratio",
        share,
        "The share of the vision tokens that --prune keeps, above 0 and at most 1.",
        absent="as published, where the method has such a setting",
    )
    text = "A parameter of the pruning method; may be repeated."
    add("--prune-set", _parameters, text, [], absent=_AS_LISTED, action="append")
    text = "The positions of the kept tokens: renumbered without gaps, or original as without compression."
    add("--position-ids", one_of(POSITION_IDS), text, absent=POSITION_IDS[0])


def add_sampling(parser: argparse.ArgumentParser) -> None:
    add = partial(add_option, parser.add_argument_group("decoding"))
    add("--max-new-tokens", at_least(1), "The most tokens of an answer.", absent="the LLM service's")
    add("--temperature", not_negative, "The sampling temperature; 0 decodes greedily.", absent="0", metavar="T")
    text = "Sample among the likeliest tokens that together have this probability, in (0, 1]."
    add("--top-p", share, text, absent="1", metavar="P")
    text = "Sample among this many likeliest tokens; 0 and -1 mean all."
    add("--top-k", at_least(-1), text, absent="0", metavar="K")
    text = "The seed of sampling; the same seed gives the same text, and -1 sets none."
    add("--seed", at_least(-1), text, absent="random")
    add("--stop", any_text, "A text before which the answer ends; may be repeated.", [], action="append")
    text = "The penalty on tokens that the text already holds; 1 leaves them alone."
    add("--repetition-penalty", positive, text, absent="the checkpoint's", metavar="R")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="Print one JSON document instead of text.")


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


def asked_compression(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of a compression that the command line sets by options of the same name, and its parameters."""
    asked = {name: value for name, value in vars(args).items() if name in _COMPRESSION and value not in (None, False)}
    parameters = dict(getattr(args, "parameter", ()))
    return {**asked, "parameters": parameters} if parameters else asked


def compression_from(args: argparse.Namespace, *, ratio: float | None = None) -> Compression | None:
    """None if no option asks for anything. `ratio` stands in for the option where a command has its own."""
    ratio = args.ratio if ratio is None else ratio
    try:
        method = chosen_method(args.method, ratio)
    except ValueError as error:
        usage_error(args, str(error))
    asked = asked_compression(args)
    if method is None and not asked:
        return None
    if method is None and args.budget is None:
        usage_error(args, "the compression options need --ratio, the share of the vision tokens to keep, or --method")
    return Compression(**{**asked, "method": method or DEFAULT_METHOD, "retention_ratio": ratio})


def pruning_from(args: argparse.Namespace) -> Pruning | None:
    """None if no option asks for any. A wrong combination of options is a wrong usage."""
    if args.prune is None:
        for option, given in (("--prune-ratio", args.prune_ratio is not None), ("--prune-set", args.prune_set)):
            if given:
                usage_error(args, f"{option} needs --prune, the method that it is for")
        if getattr(args, "quotas_only", False):
            usage_error(args, "--quotas-only needs --prune: pruning in the language model keeps to the quotas")
        return None
    return Pruning(args.prune, args.prune_ratio, dict(args.prune_set))


def answer_options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `Client.stream_from_tokens` that the options of an answer set."""
    return {
        "pruning": pruning_from(args),
        "position_ids": args.position_ids,
        "sampling": sampling_from(args),
    }


def request_options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `Client.stream` that options set."""
    return {"compression": compression_from(args), "data_type": args.data_type, **answer_options(args)}


def sampling_from(args: argparse.Namespace) -> Sampling:
    return Sampling(**{field.name: getattr(args, field.name) for field in fields(Sampling)})


def _parameter(text: str) -> tuple[str, float]:
    name, separator, value = text.partition("=")
    if not (name and separator):
        raise ValueError(f"{text!r} is not of the form NAME=NUMBER")
    return name, number.convert(value)


_parameters = Kind(_parameter, "NAME=NUMBER", "NAME=NUMBER")
