"""`visionsplit encode IMAGE -o FILE`: store an image's kept vision tokens."""

import argparse
from pathlib import Path

from visionsplit_client.cli import _options, _report

_SUFFIX = ".safetensors"


def add_parser(commands: _options.Subparsers) -> None:
    parser = commands.add_parser("encode", help="store an image's vision tokens", description=__doc__)
    parser.add_argument("image", metavar="IMAGE", help="The image, as a path or a URL.")
    parser.add_argument(
        "-o",
        "--output",
        type=_tokens_file,
        required=True,
        metavar="FILE",
        help="The .safetensors file to write. Required.",
    )
    _options.add_json(parser)
    _options.add_connection(parser)
    _options.add_compression(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    _options.check_folder(args)
    with _options.client_from(args) as client:
        image = client.encode(args.image, _options.compression_from(args), data_type=args.data_type)
    image.save(args.output)
    if args.json:
        _report.print_json(
            {
                "output": str(args.output),
                "data_type": image.data_type,
                "layout": image.layout,
                "format": image.format,
                "summary": image.summary,
            }
        )
    else:
        print(f"{args.output}: {image.data_type}, {_report.cost(image.summary)}")
    return 0


def _tokens_file(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() != _SUFFIX:
        raise argparse.ArgumentTypeError(f"{text} does not end in {_SUFFIX}, the format in which tokens are stored")
    return path
