"""`visionsplit visualize IMAGE -o FILE`: draw which vision tokens are kept at several retention ratios."""

import argparse
import io
from pathlib import Path

from PIL import Image, ImageOps

from visionsplit_client._encoded import EncodedImage
from visionsplit_client._images import read_image
from visionsplit_client._settings import DEFAULT_LIMITS, DEFAULT_TIMEOUTS
from visionsplit_client.cli import _options, _report
from visionsplit_client.cli._drawing import Panel, draw_panels

_RATIOS = (1.0, 0.5, 0.25, 0.1)


def add_parser(commands: _options.Subparsers) -> None:
    parser = commands.add_parser("visualize", help="draw the kept vision tokens", description=__doc__)
    parser.add_argument("image", metavar="IMAGE", help="path or URL")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="picture to write")
    parser.add_argument(
        "--ratios",
        type=_ratios,
        default=_RATIOS,
        metavar="R,R,...",
        help="retention ratios, one panel each (default: 1,0.5,0.25,0.1)",
    )
    _options.add_connection(parser)
    _options.add_compression(parser, ratio=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    data = read_image(args.image, limits=DEFAULT_LIMITS, timeouts=DEFAULT_TIMEOUTS)
    panels = []
    with _options.client_from(args) as client:
        for ratio in args.ratios:
            compression = _options.compression_from(args, ratio=ratio)
            panels.append(_panel(ratio, client.encode(data, compression, data_type=args.data_type)))
    draw_panels(_upright(data), panels).save(args.output)
    print(f"{args.output}: {len(panels)} panels")
    return 0


def _panel(ratio: float, image: EncodedImage) -> Panel:
    summary = image.summary
    title = (
        f"retention ratio {ratio:g}: {summary.tokens_after} of {summary.tokens_before} tokens, "
        f"{_report.size(summary.wire_bytes)}"
    )
    return Panel(title, image.tokens)


def _upright(data: bytes) -> Image.Image:
    """The picture as the encoder sees it: upright, the first frame, transparency over white."""
    with Image.open(io.BytesIO(data)) as opened:
        image = ImageOps.exif_transpose(opened)
        if not image.has_transparency_data:
            return image.convert("RGB")
        overlay = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", overlay.size, "white"), overlay).convert("RGB")


def _ratios(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))
