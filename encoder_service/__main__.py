"""`python -m encoder_service`: reads the command line and serves until told to stop."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from visionsplit.checkpoint import DTYPES
from visionsplit.errors import VisionSplitError
from visionsplit.images import ImageLimits
from visionsplit.telemetry.config import TelemetryConfig, add_telemetry_options, telemetry_from
from visionsplit.telemetry.logs import configure_logging
from visionsplit.wire.security.command_line import (
    add_client_options,
    add_server_options,
    client_security_from,
    server_security_from,
)
from visionsplit.wire.tensors import DataType

from encoder_service.batching import BatchLimits
from encoder_service.caching.tokens import CacheLimits
from encoder_service.compression import CompressionSpec
from encoder_service.config import ConfigError, EncoderConfig, device_of
from encoder_service.server import EncoderServer

_log = logging.getLogger("encoder_service")  # __name__ is '__main__' here


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


def build_parser() -> argparse.ArgumentParser:
    """The command line, with the defaults of `EncoderConfig`."""
    default = EncoderConfig(model="")
    parser = argparse.ArgumentParser(prog="visionsplit-encoder", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--model", required=True, help="LLaVA-NeXT checkpoint: a folder or a hub id")
    add("--revision", help="revision of a hub id")
    add("--text-tower", metavar="MODEL", help="CLIP checkpoint of the vision tower, for methods that read the prompt")
    add("--text-tower-revision", metavar="REVISION", help="revision of that hub id")
    add("--listen", default=default.listen, help="address to serve on")
    add("--llm", action=_Joined, help="addresses of LLM services, with commas between; without it none generates")
    add("--device", help="cpu, cuda or cuda:N; a GPU if there is one")
    add("--dtype", choices=DTYPES, help="float32 on the CPU, the checkpoint's type on a GPU")
    add("--max-batch-tiles", type=int, default=default.batch.max_batch_tiles, help="tiles per forward pass")
    add("--max-batch-wait-ms", type=float, default=default.batch.max_wait_seconds * 1000, help="wait for more tiles")
    add("--max-queued-tiles", type=int, default=default.batch.max_queued_tiles, help="tiles waiting for the device")
    add("--max-image-pixels", type=int, default=default.image.max_pixels, help="of one image")
    add("--image-threads", type=int, default=default.image_threads, help="threads that decode and cut images")
    add("--cache-bytes", type=int, default=default.cache.memory_bytes, help="of tokens kept in memory; 0 is none")
    add("--cache-dir", type=Path, help="folder for kept tokens; without it none are kept on disk")
    add("--cache-dir-bytes", type=int, default=default.cache.folder_bytes, help="of tokens kept in that folder")
    add("--max-images", type=int, default=default.max_images, help="images per request")
    add("--max-request-bytes", type=int, default=default.max_request_bytes, help="bytes per request")
    add("--max-calls", type=int, default=default.max_calls, help="calls at once")
    add("--caller-share", type=float, default=default.caller_share, help="part of calls and tiles for one caller")
    add("--chunk-bytes", type=int, default=default.chunk_bytes, help="payload of a message of tokens")
    add("--method", default=default.default_compression.method, help="compression of requests that name none")
    add("--retention-ratio", type=float, help="of that compression")
    add("--data-type", choices=[kind.name.lower() for kind in DataType], help="tokens' format, if a request names none")
    add("--grace", type=float, default=default.grace_seconds, help="seconds that calls may go on after a signal")
    add("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"], help="of this service")
    add_telemetry_options(parser)
    add_server_options(parser)
    add_client_options(parser, service="the LLM service", prefix="llm-")
    return parser


def config_from(options: argparse.Namespace) -> EncoderConfig:
    """The configuration behind a command line.

    Raises:
        ConfigError, CredentialsError, InvalidCompressionError: a setting out of its range.
    """
    return EncoderConfig(
        model=options.model,
        revision=options.revision,
        text_tower=options.text_tower,
        text_tower_revision=options.text_tower_revision,
        listen=options.listen,
        llm=options.llm,
        device=device_of(options.device) if options.device is not None else None,
        dtype=DTYPES[options.dtype] if options.dtype else None,
        batch=BatchLimits(options.max_batch_tiles, options.max_batch_wait_ms / 1000, options.max_queued_tiles),
        image=ImageLimits(max_pixels=options.max_image_pixels),
        image_threads=options.image_threads,
        cache=CacheLimits(options.cache_bytes, options.cache_dir, options.cache_dir_bytes),
        max_images=options.max_images,
        max_request_bytes=options.max_request_bytes,
        max_calls=options.max_calls,
        caller_share=options.caller_share,
        chunk_bytes=options.chunk_bytes,
        default_compression=CompressionSpec(options.method, options.retention_ratio),
        default_data_type=DataType[options.data_type.upper()] if options.data_type else None,
        grace_seconds=options.grace,
        telemetry=_telemetry(options),
        security=server_security_from(options),
        llm_security=client_security_from(options, prefix="llm-"),
    )


def _telemetry(options: argparse.Namespace) -> TelemetryConfig:
    try:
        return telemetry_from(options, os.environ)
    except ValueError as error:
        raise ConfigError(str(error)) from None


async def serve(config: EncoderConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain; such a signal during the start ends the process there and then."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[int] = loop.create_future()

    def tell(number: int) -> None:
        if not told.done():
            told.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tell, number)
    server = EncoderServer(config)
    starting = asyncio.ensure_future(server.start())
    await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        _log.info("told to stop while starting")
        # A thread that reads a checkpoint cannot be told to stop, and Python would wait for it. No call is inside yet.
        logging.shutdown()
        os._exit(128 + told.result())
    await starting
    await told
    await server.stop(config.grace_seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the process's exit status."""
    options = build_parser().parse_args(arguments)
    configure_logging(
        "encoder", level=options.log_level, form=options.log_format, loggers=("encoder_service", "visionsplit")
    )
    try:
        asyncio.run(serve(config_from(options)))
    except (ConfigError, VisionSplitError) as error:
        _log.error("cannot serve: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
