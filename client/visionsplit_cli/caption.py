"""`visionsplit caption IMAGE...`: a caption for each image, and what compression saved."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from visionsplit.errors import VisionSplitError
from visionsplit.visible import counted, one_line, visible
from visionsplit_client import Client, Compression, Generation

from visionsplit_cli import hints, image_arguments, options, output, report

DEFAULT_PROMPT = "Describe the image."


@dataclass(frozen=True)
class _Captioned:
    image: str
    generation: Generation | None
    error: dict[str, str] | None


@dataclass(frozen=True)
class _Totals:
    images: int
    failed: int
    tokens_before: int
    tokens_after: int
    wire_bytes_before: int
    wire_bytes: int
    total_seconds: float


def add_parser(commands: options.Subparsers) -> None:
    parser = commands.add_parser("caption", help="describe images", description=__doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help=image_arguments.IMAGE_HELP)
    parser.add_argument("--prompt", default=DEFAULT_PROMPT, help='The instruction. Default: "%(default)s".')
    options.add_json(parser)
    options.add_connection(parser)
    options.add_compression(parser)
    options.add_prefill(parser)
    options.add_sampling(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    image_arguments.check_images(args, args.images)
    if not args.prompt.strip():
        options.usage_error(args, "the instruction of --prompt is empty")
    results = []
    asked = options.request_options(args)
    with options.client_from(args) as client:
        for image in args.images:
            result = _caption(client, image, args.prompt, asked)
            results.append(result)
            if result.error is not None:
                output.warn(result.error["message"])
            elif not args.json:
                _print_one(result)
    if args.json:
        report.print_json({"images": results, "totals": _totals(results)})
    elif any(result.generation for result in results):
        _print_totals(results, asked["compression"])
    return 1 if any(result.error is not None for result in results) else 0


def _caption(client: Client, image: str, prompt: str, asked: dict[str, Any]) -> _Captioned:
    """One image's failure is its own; the others go on."""
    name = image_arguments.shown(image)
    try:
        generation = client.generate(image_arguments.source_of(image), prompt, **asked)
    except (VisionSplitError, OSError, ValueError) as error:
        text = hints.explained(error, [name]) + _mistake(error, image)
        named = text if name in text else f"{name}: {text}"
        return _Captioned(name, None, report.failure(error, named))
    return _Captioned(name, generation, None)


def _mistake(error: Exception, image: str) -> str:
    """What was probably meant by something that is not an image."""
    if isinstance(error, IsADirectoryError):
        return "; `visionsplit batch caption` captions the images of a folder"
    if isinstance(error, FileNotFoundError) and not image_arguments.looks_like_image(image):
        return '; a question is asked with: visionsplit ask photo.jpg "What is it?"'
    return ""


def _print_one(result: _Captioned) -> None:
    generation = result.generation
    if generation is None:
        return
    print(f"{one_line(result.image)}\n  {visible(generation.text.strip())}")
    print(f"  {report.cost(generation.images[0])}, {generation.total_seconds:.2f} s")
    if generation.layer_tokens:
        print(f"  {report.layers(generation.layer_tokens)}")
    print(flush=True)


def _print_totals(results: Sequence[_Captioned], compression: Compression | None) -> None:
    """A line on several images together, and a hint where nothing was saved and nothing was asked for."""
    totals = _totals(results)
    if len(results) > 1:
        failed = f", {totals.failed} failed" if totals.failed else ""
        print(f"{counted(totals.images, 'image')}: {_costs(totals)}, {totals.total_seconds:.2f} s{failed}")
    if compression is None and totals.tokens_after == totals.tokens_before:
        print("every vision token was kept; --ratio 0.25 keeps a quarter of them", file=sys.stderr)


def _costs(totals: _Totals) -> str:
    if totals.tokens_after == totals.tokens_before:
        return f"{totals.tokens_after} vision tokens, {report.size(totals.wire_bytes)} on the wire"
    return (
        f"{totals.tokens_before} -> {totals.tokens_after} vision tokens "
        f"({report.percent_less(totals.tokens_after, totals.tokens_before)}), "
        f"{report.size(totals.wire_bytes_before)} -> {report.size(totals.wire_bytes)} on the wire "
        f"({report.percent_less(totals.wire_bytes, totals.wire_bytes_before)})"
    )


def _totals(results: Sequence[_Captioned]) -> _Totals:
    generations = [result.generation for result in results if result.generation is not None]
    images = [image for generation in generations for image in generation.images]
    return _Totals(
        images=len(images),
        failed=sum(result.error is not None for result in results),
        tokens_before=sum(image.tokens_before for image in images),
        tokens_after=sum(image.tokens_after for image in images),
        wire_bytes_before=sum(image.wire_bytes_before for image in images),
        wire_bytes=sum(image.wire_bytes for image in images),
        total_seconds=sum(generation.total_seconds for generation in generations),
    )
