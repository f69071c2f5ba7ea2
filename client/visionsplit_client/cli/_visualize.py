"""`visionsplit visualize IMAGE -o FILE`: draw which vision tokens are kept, and how many of each tile.

One method at several retention ratios, or with --compare several methods side by side.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from PIL import Image
from visionsplit.command_line import at_least
from visionsplit.conditions import METHOD_FORM
from visionsplit.images import UNLIMITED, decode_image

from visionsplit_client._images import read_image
from visionsplit_client._options import Compression
from visionsplit_client._settings import DEFAULT_LIMITS, DEFAULT_TIMEOUTS
from visionsplit_client.cli import _options
from visionsplit_client.cli._conditions import parse_condition
from visionsplit_client.cli._drawing import COMPACT, LARGE, draw_panels
from visionsplit_client.cli._panels import Shown, encode_all, summary_table

_RATIOS = (1.0, 0.5, 0.25, 0.1)
_KEEP_ALL = (1.0,)


def add_parser(commands: _options.Subparsers) -> None:
    parser = commands.add_parser("visualize", help="draw the kept vision tokens", description=__doc__)
    parser.add_argument("image", metavar="IMAGE", help="path or URL")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="picture to write")
    parser.add_argument(
        "--ratios",
        type=_ratios,
        metavar="R,R,...",
        help="retention ratios, one panel each (default: 1,0.5,0.25,0.1; with --method none: 1); "
        "with --compare, those of every SPEC that has none of its own",
    )
    _add_comparison(parser)
    _options.add_connection(parser)
    _options.add_compression(parser, ratio=False)
    parser.set_defaults(run=run)


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "comparison", f"SPEC is {METHOD_FORM}, such as globalcom2@0.25 or globalcom2:score=local,tau=5@0.25."
    )
    group.add_argument(
        "--compare", action="append", default=[], metavar="SPEC", help="show this too; repeat it for each panel"
    )
    group.add_argument(
        "--equal",
        action="store_true",
        help="adjust the ratios until about as many tokens enter the LLM as under the first SPEC",
    )
    group.add_argument(
        "--columns", type=at_least(1), default=2, metavar="N", help="panels in a row (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    _options.check_folder(args)
    _check_type(args)
    series = _comparisons(args) if args.compare else [_one_method(args)]
    data = read_image(args.image, limits=DEFAULT_LIMITS, timeouts=DEFAULT_TIMEOUTS)
    shown: list[Shown] = []
    with _options.client_from(args) as client:
        for compressions in series:
            shown += encode_all(
                compressions,
                lambda compression: client.encode(data, compression, data_type=args.data_type),
                equal=args.equal,
            )
    sizes = COMPACT if args.compare else LARGE
    panels = [one.panel() for one in shown]
    draw_panels(decode_image(data, UNLIMITED), panels, columns=args.columns, sizes=sizes).save(args.output)
    print(f"{args.output}: {len(panels)} panel{'s' if len(panels) > 1 else ''}")
    print(summary_table(shown))
    return 0


def _one_method(args: argparse.Namespace) -> list[Compression]:
    """The method of the compression options at each ratio."""
    if args.equal:
        _options.usage_error(args, "--equal needs --compare, the methods whose token counts it makes equal")
    ratios = args.ratios or (_KEEP_ALL if args.method == "none" else _RATIOS)
    compressions = (_options.compression_from(args, ratio=ratio) for ratio in ratios)
    return [compression for compression in compressions if compression is not None]


def _comparisons(args: argparse.Namespace) -> list[list[Compression]]:
    """All the compressions to compare, once for each of the ratios."""
    parts = (args.method, args.score, args.budget, args.selection, args.merging, args.guidance)
    if args.parameter or any(part is not None for part in parts):
        _options.usage_error(args, "with --compare, method, parts, parameters and guidance belong into each SPEC")
    try:
        compressions = [parse_condition(text, args.layout or "spatial") for text in args.compare]
    except ValueError as error:
        _options.usage_error(args, str(error))
    return [[_filled(compression, ratio) for compression in compressions] for ratio in args.ratios or (None,)]


def _filled(compression: Compression, ratio: float | None) -> Compression:
    if compression.retention_ratio is not None or compression.method == "none":
        return compression
    return replace(compression, retention_ratio=ratio)


def _check_type(args: argparse.Namespace) -> None:
    """Pillow would refuse the output's type only once everything is encoded and drawn."""
    types = Image.registered_extensions()  # loads all plugins
    if types.get(args.output.suffix.lower()) not in Image.SAVE:
        _options.usage_error(args, f"cannot write {args.output}: name a type of picture, such as .png")


def _ratios(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of ratios such as 1,0.5,0.25") from None
