"""The encoder service's options. Parsing them imports no PyTorch, so that a mistake is reported at once."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from visionsplit.cli.command_line import (
    LOG_LEVELS,
    OneLineParser,
    addresses,
    at_least,
    device,
    host_port,
    not_negative,
    positive,
    share,
    unless_empty,
)
from visionsplit.cli.security_options import add_client_options, add_server_options
from visionsplit.images import ImageLimits
from visionsplit.network.transport import DEFAULT_CHUNK_BYTES, MAX_CHUNK_BYTES, MAX_IMAGE_REQUEST_BYTES, MIN_CHUNK_BYTES
from visionsplit.options.compression import DEFAULT_METHOD, DEFAULT_RATIO, KEEP_ALL, chosen_method
from visionsplit.options.data_types import DATA_TYPES, DTYPE_NAMES
from visionsplit.telemetry.config import add_telemetry_options

from encoder_service import defaults


class _Joined(argparse.Action):
    """Repeating an option adds to it, as a comma does."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if before is None else f"{before},{values}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line. A wrong usage raises SystemExit(2), as argparse does."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        options.method = chosen_method(options.method, options.retention_ratio) or KEEP_ALL
    except ValueError as error:
        parser.error(str(error))
    return options


def build_parser() -> argparse.ArgumentParser:
    """The command line, with the defaults of `EncoderConfig`."""
    parser = OneLineParser(
        prog="visionsplit-encoder",
        description="Crops images, encodes them, and sends the vision tokens worth keeping to an LLM service.",
    )
    _add_model(parser)
    _add_serving(parser.add_argument_group("serving"))
    _add_compression(parser.add_argument_group("compression of requests that ask for none"))
    _add_limits(parser.add_argument_group("limits"))
    _add_cache(parser.add_argument_group("cache of vision tokens"))
    add_telemetry_options(parser)
    add_server_options(parser)
    add_client_options(parser, service="the LLM service", prefix="llm-")
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add(
        "--model",
        required=True,
        help="The LLaVA-NeXT checkpoint, as a folder or a Hugging Face hub id. Required.",
    )
    add("--revision", help="The revision of a hub id. Default: the hub's main revision.")
    add(
        "--text-tower",
        metavar="MODEL",
        help="The CLIP checkpoint that the vision tower comes from, for methods that read the prompt. Default: none, "
        "and such methods are refused.",
    )
    add(
        "--text-tower-revision",
        metavar="REVISION",
        help="The revision of the text tower's hub id. Default: the hub's main revision.",
    )
    add(
        "--device",
        type=device,
        help="The device to compute on: cpu, cuda or cuda:N. Default: the first GPU, or the CPU where there is none.",
    )
    add(
        "--dtype",
        choices=DTYPE_NAMES,
        help="The number format of weights. Default: float32 on the CPU, the checkpoint's own on a GPU.",
    )


def _add_serving(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--listen",
        type=host_port,
        default=defaults.LISTEN,
        metavar="HOST:PORT",
        help="The address to listen on; port 0 takes a free one. Default: %(default)s.",
    )
    add(
        "--llm",
        type=addresses,
        action=_Joined,
        metavar="HOST:PORT",
        help="The LLM services' addresses, with commas between them, or one for each --llm. Default: none, and the "
        "encoder only encodes.",
    )
    add(
        "--grace",
        type=not_negative,
        default=defaults.GRACE_SECONDS,
        metavar="SECONDS",
        help="How long running calls may go on after the service was told to stop. Default: %(default)g.",
    )
    add(
        "--log-level",
        default="INFO",
        choices=LOG_LEVELS,
        help="The least severe messages to log. Default: %(default)s.",
    )


def _add_compression(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--method",
        type=unless_empty(str),
        metavar="NAME",
        help=f"How to choose the vision tokens to keep; docs/methods.md lists the methods. Default: {KEEP_ALL}, or "
        f"{DEFAULT_METHOD} with --retention-ratio. An empty value counts as not given.",
    )
    add(
        "--retention-ratio",
        "--ratio",
        type=unless_empty(share),
        metavar="SHARE",
        help=f"The share of the vision tokens to keep, above 0 and at most 1. Default: {DEFAULT_RATIO:g} for methods "
        "that need a ratio. An empty value counts as not given.",
    )
    add(
        "--data-type",
        choices=DATA_TYPES,
        help="The number format in which vision tokens are sent. Default: the vision tower's own.",
    )


def _add_limits(group: argparse._ArgumentGroup) -> None:
    def add(option: str, default: int, text: str, *, least: int = 1, most: int | None = None) -> None:
        read = at_least(least, most=most)
        group.add_argument(option, type=read, default=default, metavar="N", help=f"{text} Default: %(default)s.")

    add("--max-batch-tiles", defaults.MAX_BATCH_TILES, "The most tiles in one forward pass of the vision tower.")
    group.add_argument(
        "--max-batch-wait-ms",
        type=not_negative,
        default=defaults.MAX_BATCH_WAIT_SECONDS * 1000,
        metavar="MS",
        help="The milliseconds that an incomplete batch waits for more tiles. Default: %(default)g.",
    )
    add("--max-queued-tiles", defaults.MAX_QUEUED_TILES, "The most tiles that wait for the device.")
    add("--max-image-pixels", ImageLimits.max_pixels, "The most pixels of one image.")
    add("--image-threads", defaults.IMAGE_THREADS, "The number of threads that decode and crop images.")
    add(
        "--max-decoding-bytes",
        defaults.MAX_DECODING_BYTES,
        "The memory in bytes that decoding takes at once. Images wait for it in turns; one image may take three "
        "quarters of it, or all but 512 MiB where that is more, and is refused if it takes more.",
    )
    add("--max-images", defaults.MAX_IMAGES, "The most images in one request.")
    add("--max-request-bytes", MAX_IMAGE_REQUEST_BYTES, "The most bytes in one request.", most=MAX_IMAGE_REQUEST_BYTES)
    group.add_argument(
        "--receive-timeout",
        type=positive,
        default=defaults.RECEIVE_SECONDS,
        metavar="SECONDS",
        help="The seconds in which a request must arrive completely. Default: %(default)g.",
    )
    add("--max-calls", defaults.MAX_CALLS, "The most calls at one time; further ones are refused.")
    group.add_argument(
        "--caller-share",
        type=share,
        default=defaults.CALLER_SHARE,
        metavar="SHARE",
        help="The share of calls and queued tiles that one caller may take, above 0 and at most 1. "
        "Default: %(default)g.",
    )
    add(
        "--chunk-bytes",
        DEFAULT_CHUNK_BYTES,
        "The most bytes of vision tokens in one message.",
        least=MIN_CHUNK_BYTES,
        most=MAX_CHUNK_BYTES,
    )


def _add_cache(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--cache-bytes",
        type=at_least(0),
        default=defaults.CACHE_MEMORY_BYTES,
        metavar="BYTES",
        help="The memory for vision tokens of images that come again; 0 keeps none. Default: %(default)s.",
    )
    add(
        "--cache-dir",
        type=Path,
        metavar="FOLDER",
        help="The folder in which vision tokens are kept across restarts. Default: none, and nothing is written.",
    )
    add(
        "--cache-dir-bytes",
        type=at_least(1),
        default=defaults.CACHE_FOLDER_BYTES,
        metavar="BYTES",
        help="The most bytes kept in that folder. Default: %(default)s.",
    )
