"""The options of `visionsplit plan`."""

import argparse
import math
import shlex

from visionsplit.command_line import at_least
from visionsplit_client._options import DEFAULT_METHOD
from visionsplit_client.cli import _options as shared
from visionsplit_client.cli._caption import DEFAULT_PROMPT

from visionsplit_batch.planning.pictures import MOST_ROWS

_RATIOS = (1.0, 0.5, 0.25, 0.1)


def parser(description: str | None) -> argparse.ArgumentParser:
    """The command line."""
    parser = shared.OneLineParser(
        prog="visionsplit plan", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help=f"as of `visionsplit batch`; its first {MOST_ROWS} rows are measured with (default: sample pictures)",
    )
    _add_services(parser)
    _add_work(parser)
    group = parser.add_argument_group("cost", "In any currency. Without a price, hours of devices are counted.")
    group.add_argument(
        "--price-encoder", type=_price, metavar="MONEY", help="an encoder's device for an hour (default: as the other)"
    )
    group.add_argument(
        "--price-llm",
        type=_price,
        metavar="MONEY",
        help="a language model's device for an hour (default: as the other)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print the result only")
    shared.add_json(parser)
    parser.set_defaults(parser=parser)
    return parser


def _add_services(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("services of its own", "Used unless --encoder and --llm are given.")
    group.add_argument(
        "--model", metavar="NAME", help="checkpoint: a folder or a hub id (default: the one in this checkout)"
    )
    for service in ("encoder", "llm"):
        group.add_argument(
            f"--{service}-args",
            type=shlex.split,
            default=[],
            metavar="OPTIONS",
            help=f'further, as python -m {service}_service --help lists them: --{service}-args="--dtype float32"',
        )
    group.add_argument(
        "--start-timeout",
        type=shared.positive_seconds,
        default=600.0,
        metavar="SECONDS",
        help="for each to become healthy (default: %(default)g)",
    )
    group = parser.add_argument_group("running services")
    group.add_argument(
        "--encoder", action="append", metavar="HOST:PORT", help="may be repeated, where several are equal"
    )
    group.add_argument("--llm", metavar="HOST:PORT", help="asked directly")
    shared.add_security(parser)


def _add_work(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is measured")
    group.add_argument(
        "--ratios", type=_ratios, default=_RATIOS, metavar="R,R,...", help="tokens to keep (default: 1,0.5,0.25,0.1)"
    )
    group.add_argument(
        "--method", default=DEFAULT_METHOD, metavar="NAME", help="at ratios below 1 (default: %(default)s)"
    )
    group.add_argument("--guidance", metavar="TEXT", help="for a method that looks at a text")
    group.add_argument(
        "--prompt", default=DEFAULT_PROMPT, metavar="TEXT", help='asked of each image (default: "%(default)s")'
    )
    group.add_argument("--max-new-tokens", type=at_least(1), metavar="N", help="of an answer, as the job will ask for")
    group.add_argument(
        "--seconds",
        type=shared.positive_seconds,
        default=5.0,
        help="in which calls begin, for each half at each ratio (default: %(default)g)",
    )
    group.add_argument(
        "--in-flight",
        type=at_least(1),
        default=64,
        metavar="N",
        help="calls at once for each encoder and each replica, fewer where they take long (default: %(default)s)",
    )
    group.add_argument(
        "--timeout",
        type=shared.positive_seconds,
        default=600.0,
        metavar="SECONDS",
        help="for each call (default: %(default)g)",
    )


def _ratios(text: str) -> tuple[float, ...]:
    """The largest first."""
    try:
        ratios = {float(one) for one in text.split(",")}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 1,0.5,0.1") from None
    if not all(0 < ratio <= 1 for ratio in ratios):
        raise argparse.ArgumentTypeError(f"{text}: a ratio is more than 0 and at most 1")
    return tuple(sorted(ratios, reverse=True))


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = math.nan
    if not (price > 0 and math.isfinite(price)):
        raise argparse.ArgumentTypeError(f"{text} is no price: a number above 0 is needed")
    return price
