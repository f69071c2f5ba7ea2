"""`visionsplit visualize IMAGE -o FILE`: draw which vision tokens are kept, and how many of each tile.

One method at several retention ratios, or with --compare several methods side by side. With --ask the model's answer
stands under each panel.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import Image
from visionsplit.command_line.parser import add_option, any_text, at_least, path, shares
from visionsplit.images import UNLIMITED, decode_image
from visionsplit.network.locations import is_url
from visionsplit.options.compression import DEFAULT_RATIO, KEEP_ALL
from visionsplit.options.conditions import METHOD_FORM
from visionsplit.visible import counted, visible
from visionsplit_client import Client, Compression, Sampling, read_image

from visionsplit_cli import image_arguments, options
from visionsplit_cli.conditions import parse_condition
from visionsplit_cli.visualize.drawing import COMPACT, LARGE, Header, draw_panels
from visionsplit_cli.visualize.panels import Shown, encode_all, summary_table

_RATIOS = (1.0, 0.5, 0.25, 0.1)
_UNCOMPRESSED = (1.0,)
_ANSWER_TOKENS = 64  # at most; a panel has no room for more


def add_parser(commands: options.Subparsers) -> None:
    parser = commands.add_parser("visualize", help="draw the kept vision tokens", description=__doc__)
    parser.add_argument("image", metavar="IMAGE", help=image_arguments.IMAGE_HELP)
    add = partial(add_option, parser)
    text = "The file to write; its ending, such as .png, sets the format."
    add("-o", path, text, alias="--output", required=True)
    add(
        "--ratios",
        shares,
        "The shares of the vision tokens to keep, above 0 and at most 1, one panel for each; with --compare, for every "
        "SPEC without a ratio.",
        absent=f"{shares.show(_RATIOS)}, or 1 with --method {KEEP_ALL}, or as each SPEC says",
    )
    text = "Ask the LLM service about the kept tokens, and write its answer under each panel."
    add("--ask", any_text, text, absent="no question", metavar="QUESTION")
    _add_comparison(parser)
    options.add_connection(parser)
    options.add_compression(parser, ratio=False)
    parser.set_defaults(run=run)


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "comparison", f"SPEC is {METHOD_FORM}, such as globalcom2@0.25 or globalcom2:score=local,tau=5@0.25."
    )
    text = "A compression to show; repeat the option for further panels."
    each = "--method at each ratio"
    add_option(group, "--compare", any_text, text, [], absent=each, action="append", metavar="SPEC")
    group.add_argument(
        "--equal",
        action="store_true",
        help="Adjust the ratios until about as many tokens enter the LLM as under the first SPEC.",
    )
    add_option(group, "--columns", at_least(1), "The number of panels in a row.", 2)


def run(args: argparse.Namespace) -> int:
    options.check_folder(args)
    _check_type(args)
    if args.ask is not None and not args.ask.strip():
        options.usage_error(args, "--ask is empty; it takes a question about the image")
    series = _comparisons(args) if args.compare else [_one_method(args)]
    image_arguments.check_images(args, [args.image])
    data = read_image(image_arguments.source_of(args.image))
    shown: list[Shown] = []
    with options.client_from(args) as client:
        for compressions in series:
            shown += encode_all(
                compressions,
                lambda compression: client.encode(data, compression, data_type=args.data_type),
                equal=args.equal,
            )
        if args.ask is not None:
            shown = [_answered(client, one, args.ask) for one in shown]
    panels = [one.panel(first_answer=shown[0].answer) for one in shown]
    header = Header(_name(args.image), args.ask, any(panel.changed for panel in panels))
    sizes = COMPACT if args.compare else LARGE
    image = decode_image(data, UNLIMITED)
    draw_panels(image, panels, header, columns=args.columns, sizes=sizes).save(args.output)
    print(f"{args.output}: {counted(len(panels), 'panel')}")
    print(summary_table(shown))
    for one in shown:
        if one.answer is not None:
            print(visible(f"{one.title}: {one.answer}"))
    return 0


def _name(image: str) -> str:
    """What the drawing calls the image: a file by its name alone."""
    return image_arguments.shown(image) if is_url(image) or image == image_arguments.STDIN else Path(image).name


def _answered(client: Client, shown: Shown, question: str) -> Shown:
    """With what the model says about the kept tokens, on one line."""
    generation = client.generate_from_tokens(shown.image, question, sampling=Sampling(max_new_tokens=_ANSWER_TOKENS))
    return replace(shown, answer=" ".join(generation.text.split()))


def _one_method(args: argparse.Namespace) -> list[Compression]:
    """The method of the compression options at each ratio."""
    if args.equal:
        options.usage_error(args, "--equal needs --compare, the methods whose token counts it makes equal")
    ratios = args.ratios or (_UNCOMPRESSED if args.method == KEEP_ALL else _RATIOS)
    compressions = (options.compression_from(args, ratio=ratio) for ratio in ratios)
    return [compression for compression in compressions if compression is not None]


def _comparisons(args: argparse.Namespace) -> list[list[Compression]]:
    """All the compressions to compare, once for each of the ratios."""
    if options.asked_compression(args).keys() - {"layout"}:
        options.usage_error(args, "with --compare, put method, parts, parameters and guidance into each SPEC")
    try:
        compressions = [parse_condition(text, args.layout or "spatial") for text in args.compare]
    except ValueError as error:
        options.usage_error(args, str(error))
    first, *others = compressions
    # Where counts are made equal, the search for a ratio has to begin somewhere.
    start = DEFAULT_RATIO if args.equal else None
    return [
        [_filled(first, ratio), *(_filled(compression, ratio or start) for compression in others)]
        for ratio in args.ratios or (None,)
    ]


def _filled(compression: Compression, ratio: float | None) -> Compression:
    if compression.retention_ratio is not None or compression.method == KEEP_ALL:
        return compression
    return replace(compression, retention_ratio=ratio)


def _check_type(args: argparse.Namespace) -> None:
    """Pillow would refuse the output's type only once everything is encoded and drawn."""
    types = Image.registered_extensions()  # loads all plugins
    if types.get(args.output.suffix.lower()) not in Image.SAVE:
        options.usage_error(args, f"cannot write {args.output}: use an ending that names an image format, such as .png")
