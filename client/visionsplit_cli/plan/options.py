"""The options of `visionsplit plan`."""

import argparse
import shlex
from dataclasses import replace
from functools import partial

from visionsplit.command_line.parser import Kind, add_option, any_text, at_least, positive, shares
from visionsplit.options.compression import DEFAULT_METHOD

from visionsplit_cli import options as shared
from visionsplit_cli.caption import DEFAULT_PROMPT
from visionsplit_cli.plan.images import MOST_ROWS

_RATIOS = (1.0, 0.5, 0.25, 0.1)
_name = replace(any_text, metavar="NAME")
_words = Kind(shlex.split, "options", "OPTIONS")


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
        text = f"The price of {name} device for an hour."
        add_option(group, f"--price-{half}", positive, text, absent="the other price", metavar="MONEY")
    parser.add_argument("-q", "--quiet", action="store_true", help="Print the result only.")
    shared.add_json(parser)
    parser.set_defaults(parser=parser)


def _add_services(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("services that this command starts", "Used unless --encoder and --llm are given.")
    add = partial(add_option, group)
    text = "The checkpoint, as a folder or a Hugging Face hub id."
    add("--model", _name, text, absent="the one in this checkout")
    for service in ("encoder", "llm"):
        text = f"Further options of python -m {service}_service, as one word, such as "
        add(f"--{service}-args", _words, f'{text}--{service}-args="--dtype float32".', [])
    add("--start-timeout", positive, "The time in which each service must become healthy.", 600.0)
    add = partial(add_option, parser.add_argument_group("running services"))
    address = replace(any_text, metavar="HOST:PORT")
    text = "An encoder service's address; may be repeated for several equal ones."
    add("--encoder", address, text, absent="one is started", action="append")
    add("--llm", address, "The LLM service's address.", absent="one is started")
    shared.add_security(parser)


def _add_work(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is measured")
    add = partial(add_option, group)
    ratios = replace(shares, convert=lambda text: tuple(sorted(set(shares.convert(text)), reverse=True)))
    add("--ratios", ratios, "The shares of the vision tokens to keep, above 0 and at most 1.", _RATIOS)
    text = "How to choose the vision tokens to keep at ratios below 1."
    add("--method", _name, text, DEFAULT_METHOD)
    shared.add_guidance(group, absent="none")
    group.add_argument(
        "--prompt", default=DEFAULT_PROMPT, metavar="TEXT", help='The question about each image. Default: "%(default)s"'
    )
    text = "The most tokens of an answer; use what the job will ask for."
    add("--max-new-tokens", at_least(1), text, absent="the LLM service's")
    text = "The seconds in which calls begin, for each half at each ratio."
    add("--seconds", positive, text, 5.0)
    text = "The calls at one time for each encoder and each replica; fewer are used where calls take long."
    add("--in-flight", at_least(1), text, 64)
    add("--timeout", positive, "The time limit of each call.", 600.0)
