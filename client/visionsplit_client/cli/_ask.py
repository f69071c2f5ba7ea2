"""`visionsplit ask IMAGE... "question"`: the answer, printed as it comes. `--tokens FILE` asks about stored tokens."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from visionsplit_client._calls import EventStream
from visionsplit_client._client import Client
from visionsplit_client._encoded import EncodedImage
from visionsplit_client._options import Pruning
from visionsplit_client._results import Finished, Generation, GenerationEvent, TextDelta
from visionsplit_client.cli import _options, _report


def add_parser(commands: _options.Subparsers) -> None:
    parser = commands.add_parser("ask", help="ask about images", description=__doc__)
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="path or URL; none asks without an image")
    parser.add_argument("question")
    parser.add_argument(
        "--tokens",
        action="append",
        metavar="FILE",
        help="stored tokens instead of an image, as `encode` writes them; may be repeated",
    )
    _options.add_json(parser)
    _options.add_connection(parser)
    _options.add_compression(parser)
    _options.add_prefill(parser)
    _options.add_sampling(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.tokens and args.images:
        args.parser.error("images and --tokens cannot be mixed")
    if not args.images and not args.tokens and Path(args.question).is_file():
        args.parser.error(f"a question is missing after {args.question}")
    if not args.images and (_options.compression_from(args) is not None or args.data_type is not None):
        args.parser.error(
            "stored tokens are compressed already; the compression options need an image"
            if args.tokens
            else "the compression options need an image, which goes before the question"
        )
    pruning = _options.pruning_from(args)
    with _options.client_from(args) as client, _start(client, args, pruning) as stream:
        for event in stream:
            if isinstance(event, TextDelta) and not args.json:
                print(event.text, end="", flush=True)
        generation = stream.result().generation
    if args.json:
        _report.print_json(generation)
    else:
        print()
        _print_cost(generation, args.tokens or args.images)
    return 0


def _start(client: Client, args: argparse.Namespace, pruning: Pruning | None) -> EventStream[GenerationEvent, Finished]:
    sampling = _options.sampling_from(args)
    if args.tokens:
        images = [EncodedImage.load(path) for path in args.tokens]
        return client.stream_from_tokens(
            images, args.question, pruning=pruning, position_ids=args.position_ids, sampling=sampling
        )
    return client.stream(
        args.images,
        args.question,
        compression=_options.compression_from(args),
        data_type=args.data_type,
        pruning=pruning,
        position_ids=args.position_ids,
        sampling=sampling,
    )


def _print_cost(generation: Generation, names: Sequence[str]) -> None:
    """On stderr, so that stdout holds the answer alone."""
    for image in generation.images:
        name = f"{names[image.index]}: " if len(names) > 1 else ""
        print(f"{name}{_report.cost(image)}", file=sys.stderr)
    if generation.layer_tokens:
        print(_report.layers(generation.layer_tokens), file=sys.stderr)
    print(
        f"first token after {generation.time_to_first_token_seconds:.2f} s, "
        f"{generation.usage.generated_tokens} tokens in {generation.total_seconds:.2f} s",
        file=sys.stderr,
    )
