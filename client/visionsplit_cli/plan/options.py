"""The options of `visionsplit plan`."""

import argparse
import shlex

from visionsplit.command_line.parser import at_least, positive, shares
from visionsplit.options.compression import DEFAULT_METHOD

from visionsplit_cli import options as shared
from visionsplit_cli.caption import DEFAULT_PROMPT
from visionsplit_cli.plan.images import MOST_ROWS

_RATIOS = (1.0, 0.5, 0.25, 0.1)


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help=f"Images to measure with, as for `visionsplit batch`; the first {MOST_ROWS} rows are used. Default: "
        "sample images.",
    )
    _add_services(parser)
    _add_work(parser)
    group = parser.add_argument_group("cost", "In any currency. Without a price, hours of devices are counted.")
    for half, name in (("encoder", "an encoder's"), ("llm", "a language model's")):
        group.add_argument(
            f"--price-{half}",
            type=positive,
            metavar="MONEY",
            help=f"The price of {name} device for an hour. Default: the other price.",
        )
    parser.add_argument("-q", "--quiet", action="store_true", help="Print the result only.")
    shared.add_json(parser)
    parser.set_defaults(parser=parser)


def _add_services(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("services that this command starts", "Used unless --encoder and --llm are given.")
    group.add_argument(
        "--model",
        metavar="NAME",
        help="The checkpoint, as a folder or a Hugging Face hub id. Default: the one in this checkout.",
    )
    for service in ("encoder", "llm"):
        group.add_argument(
            f"--{service}-args",
            type=shlex.split,
            default=[],
            metavar="OPTIONS",
            help=f"Further options of python -m {service}_service, as one word, such as "
            f'--{service}-args="--dtype float32". Default: none.',
        )
    group.add_argument(
        "--start-timeout",
        type=positive,
        default=600.0,
        metavar="SECONDS",
        help="The time in which each service must become healthy. Default: %(default)g.",
    )
    group = parser.add_argument_group("running services")
    group.add_argument(
        "--encoder",
        action="append",
        metavar="HOST:PORT",
        help="An encoder service's address; may be repeated for several equal ones. Default: one is started.",
    )
    group.add_argument("--llm", metavar="HOST:PORT", help="The LLM service's address. Default: one is started.")
    shared.add_security(parser)


def _add_work(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is measured")
    add = group.add_argument
    add(
        "--ratios",
        type=_ratios,
        default=_RATIOS,
        metavar="R,R,...",
        help="The shares of the vision tokens to keep, above 0 and at most 1. Default: "
        f"{','.join(f'{ratio:g}' for ratio in _RATIOS)}.",
    )
    add(
        "--method",
        default=DEFAULT_METHOD,
        metavar="NAME",
        help="How to choose the vision tokens to keep at ratios below 1. Default: %(default)s.",
    )
    shared.add_guidance(group, default="none")
    add(
        "--prompt", default=DEFAULT_PROMPT, metavar="TEXT", help='The question about each image. Default: "%(default)s"'
    )
    add(
        "--max-new-tokens",
        type=at_least(1),
        metavar="N",
        help="The most tokens of an answer; use what the job will ask for. Default: the LLM service's.",
    )
    add(
        "--seconds",
        type=positive,
        default=5.0,
        help="The seconds in which calls begin, for each half at each ratio. Default: %(default)g.",
    )
    add(
        "--in-flight",
        type=at_least(1),
        default=64,
        metavar="N",
        help="The calls at one time for each encoder and each replica; fewer are used where calls take long. "
        "Default: %(default)s.",
    )
    add(
        "--timeout",
        type=positive,
        default=600.0,
        metavar="SECONDS",
        help="The time limit of each call. Default: %(default)g.",
    )


def _ratios(text: str) -> tuple[float, ...]:
    """The largest first, each once."""
    return tuple(sorted(set(shares(text)), reverse=True))
