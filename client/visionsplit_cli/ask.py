"""`visionsplit ask IMAGE... "question"`: the answer, printed as it comes. `--tokens FILE` asks about stored tokens."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from visionsplit.command_line.parser import add_option, any_text
from visionsplit.visible import one_line, visible
from visionsplit_client import (
    Client,
    EncodedImage,
    EventStream,
    Finished,
    Generation,
    GenerationEvent,
    TextDelta,
)

from visionsplit_cli import image_arguments, options, output, report

_QUOTES = 'put a question of several words in quotes, as in: visionsplit ask photo.jpg "What is it?"'


def add_parser(commands: options.Subparsers) -> None:
    parser = commands.add_parser("ask", help="ask about images", description=__doc__)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="IMAGE... QUESTION",
        help="The images (paths, URLs, data: URLs, or - for standard input), if any, then the question as one word.",
    )
    text = "The question, taken as it is; all other words are images then."
    add_option(parser, "--prompt", any_text, text, absent="the last word", metavar="QUESTION")
    text = "A file of stored tokens, as `encode` writes it, instead of an image; may be repeated."
    add_option(parser, "--tokens", any_text, text, action="append", metavar="FILE")
    options.add_json(parser)
    options.add_connection(parser)
    options.add_compression(parser)
    options.add_prefill(parser)
    options.add_sampling(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    args.images, args.question = _split(args)
    if not args.images and (options.compression_from(args) is not None or args.data_type is not None):
        args.parser.error(
            "stored tokens are compressed already; the compression options need an image"
            if args.tokens
            else "the compression options need an image, which goes before the question"
        )
    asked = options.answer_options(args) if args.tokens else options.request_options(args)
    if not args.images and not args.tokens:
        output.warn("no image was given, so the question is asked without one")
    with options.client_from(args) as client, _start(client, args, asked) as stream:
        for event in stream:
            if isinstance(event, TextDelta) and not args.json:
                print(visible(event.text), end="", flush=True)
        generation = stream.result().generation
    if args.json:
        report.print_json(generation)
    else:
        print()
        _print_cost(generation, args.tokens or args.images)
    return 0


def _split(args: argparse.Namespace) -> tuple[list[str], str]:
    """The images and the question. What is not clear is a wrong usage, rather than an answer to something else."""
    if args.prompt is None:
        *images, question = args.words or [""]
        if not question:
            args.parser.error("a question is missing" if not args.words else "the question is empty")
        if image_arguments.looks_like_image(question):
            shown = image_arguments.shown(question)
            args.parser.error(f"a question is missing after {shown} (if it is the question, use --prompt)")
    else:
        images, question = args.words, args.prompt
    if not question.strip():
        args.parser.error("the question is empty")
    if len(args.words) > 1 and (others := [word for word in images if not image_arguments.looks_like_image(word)]):
        args.parser.error(f"{image_arguments.shown(others[0])!r} is neither a file nor a URL; {_QUOTES}")
    if args.tokens and images:
        args.parser.error("images and --tokens cannot be mixed")
    image_arguments.check_images(args, images)
    return images, question


def _start(client: Client, args: argparse.Namespace, asked: dict[str, Any]) -> EventStream[GenerationEvent, Finished]:
    if args.tokens:
        return client.stream_from_tokens([EncodedImage.load(path) for path in args.tokens], args.question, **asked)
    return client.stream([image_arguments.source_of(name) for name in args.images], args.question, **asked)


def _print_cost(generation: Generation, names: Sequence[str]) -> None:
    """On stderr, so that stdout holds the answer alone."""
    for image in generation.images:
        name = f"{one_line(image_arguments.shown(names[image.index]))}: " if len(names) > 1 else ""
        print(f"{name}{report.cost(image)}", file=sys.stderr)
    if generation.layer_tokens:
        print(report.layers(generation.layer_tokens), file=sys.stderr)
    print(
        f"first token after {generation.time_to_first_token_seconds:.2f} s, "
        f"{generation.usage.generated_tokens} tokens in {generation.total_seconds:.2f} s",
        file=sys.stderr,
    )
