"""`visionsplit visualize IMAGE -o FILE`: draw which vision tokens are kept at several retention ratios."""

import argparse
from pathlib import Path

from PIL import Image

from visionsplit_client._encoded import EncodedImage
from visionsplit_client._images import read_image
from visionsplit_client._settings import DEFAULT_LIMITS, DEFAULT_TIMEOUTS
from visionsplit_client.cli import _options, _report
from visionsplit_client.cli._drawing import Panel, draw_panels
from visionsplit_client.cli._picture import as_encoded

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
        help="retention ratios, one panel each (default: 1,0.5,0.25,0.1; with --method none: 1)",
    )
    _options.add_connection(parser)
    _options.add_compression(parser, ratio=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    _options.check_folder(args)
    _check_type(args)
    ratios = args.ratios or (_KEEP_ALL if args.method == "none" else _RATIOS)
    data = read_image(args.image, limits=DEFAULT_LIMITS, timeouts=DEFAULT_TIMEOUTS)
    panels = []
    with _options.client_from(args) as client:
        for ratio in ratios:
            compression = _options.compression_from(args, ratio=ratio)
            panels.append(_panel(ratio, client.encode(data, compression, data_type=args.data_type)))
    draw_panels(as_encoded(data), panels).save(args.output)
    print(f"{args.output}: {len(panels)} panel{'s' if len(panels) > 1 else ''}")
    return 0


def _panel(ratio: float, image: EncodedImage) -> Panel:
    summary = image.summary
    title = (
        f"retention ratio {ratio:g}: {summary.tokens_after} of {summary.tokens_before} tokens, "
        f"{_report.size(summary.wire_bytes)}"
    )
    return Panel(title, image.tokens)


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
