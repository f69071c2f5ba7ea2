"""From the parsed command line to a service that runs until it is told to stop."""

import argparse
import asyncio
import logging
import os
import signal

import torch
from visionsplit.cli.security_options import client_security_from, server_security_from
from visionsplit.errors import VisionSplitError
from visionsplit.images import ImageLimits
from visionsplit.model.dtypes import DTYPES
from visionsplit.options.compression import Compression
from visionsplit.options.data_types import DataType
from visionsplit.serving.process import process_watched, raise_open_files_limit
from visionsplit.telemetry.config import TelemetryConfig, telemetry_from
from visionsplit.telemetry.logs import configure_logging

from encoder_service.caching.tokens import CacheLimits
from encoder_service.config import ConfigError, EncoderConfig
from encoder_service.device.queue import BatchLimits
from encoder_service.server import EncoderServer

_log = logging.getLogger("encoder_service")


def config_from(options: argparse.Namespace) -> EncoderConfig:
    """The configuration behind a parsed command line.

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
        device=torch.device(options.device) if options.device is not None else None,
        dtype=DTYPES[options.dtype] if options.dtype else None,
        batch=BatchLimits(options.max_batch_tiles, options.max_batch_wait_ms / 1000, options.max_queued_tiles),
        image=ImageLimits(max_pixels=options.max_image_pixels),
        image_threads=options.image_threads,
        max_decoding_bytes=options.max_decoding_bytes,
        cache=CacheLimits(options.cache_bytes, options.cache_dir, options.cache_dir_bytes),
        max_images=options.max_images,
        max_request_bytes=options.max_request_bytes,
        receive_seconds=options.receive_timeout,
        max_calls=options.max_calls,
        caller_share=options.caller_share,
        chunk_bytes=options.chunk_bytes,
        default_compression=Compression(options.method, options.retention_ratio),
        default_data_type=DataType(options.data_type) if options.data_type else None,
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
    async with process_watched():
        await told
        await server.stop(config.grace_seconds)


def run(options: argparse.Namespace) -> int:
    """Serve by a parsed command line; the process's exit status."""
    configure_logging(
        "encoder", level=options.log_level, form=options.log_format, loggers=("encoder_service", "visionsplit")
    )
    raise_open_files_limit()
    try:
        asyncio.run(serve(config_from(options)))
    except (ConfigError, VisionSplitError) as error:
        _log.error("cannot serve: %s", error)
        return 1
    return 0
