"""`visionsplit encode IMAGE -o FILE`: store an image's kept vision tokens."""

import argparse

from visionsplit.command_line.parser import add_option, path
from visionsplit.visible import one_line

from visionsplit_cli import image_arguments, options, report


def add_parser(commands: options.Subparsers) -> None:
    parser = commands.add_parser("encode", help="store an image's vision tokens", description=__doc__)
    parser.add_argument("image", metavar="IMAGE", help=image_arguments.IMAGE_HELP)
    add_option(parser, "-o", path, "The .safetensors file to write.", alias="--output", required=True)
    options.add_json(parser)
    options.add_connection(parser)
    options.add_compression(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    _check(args)
    with options.client_from(args) as client:
        image = client.encode(
            image_arguments.source_of(args.image), options.compression_from(args), data_type=args.data_type
        )
    image.save(args.output)
    if args.json:
        report.print_json(
            {
                "output": str(args.output),
                "data_type": image.data_type,
                "layout": image.layout,
                "format": image.format,
                "summary": image.summary,
            }
        )
    else:
        print(f"{one_line(str(args.output))}: {image.data_type}, {report.cost(image.summary)}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """End with a wrong usage before anything is encoded, or an image overwritten."""
    options.check_folder(args)
    image_arguments.check_images(args, [args.image])
    if args.output.suffix.lower() != ".safetensors":
        options.usage_error(args, f"cannot write {args.output}: tokens are stored in a file that ends in .safetensors")
