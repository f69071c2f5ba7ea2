"""From a command line to a configuration. PyTorch is not imported, so that a mistake is reported at once."""

import argparse
import os
from collections.abc import Sequence

from visionsplit.cli.security_options import server_security_from
from visionsplit.telemetry.config import telemetry_from

from llm_service.config import BackendKind, EngineConfig, Limits, LlmConfig, RayConfig
from llm_service.options import build_parser


def parse(arguments: Sequence[str] | None = None) -> LlmConfig:
    """The configuration of a command line. A wrong usage raises SystemExit(2), as argparse does.

    Raises:
        ValueError, CredentialsError: settings that do not go together.
    """
    return config_from(parse_options(arguments))


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line. A wrong usage raises SystemExit(2), as argparse does."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    scales = options.min_replicas is not None
    if scales != (options.max_replicas is not None):
        parser.error("--min-replicas and --max-replicas go together: give both or neither")
    if scales and options.max_replicas < options.min_replicas:
        parser.error(f"--max-replicas {options.max_replicas} is less than --min-replicas {options.min_replicas}")
    if options.backend == BackendKind.LOCAL.value and (options.replicas > 1 or scales):
        parser.error(
            "--backend local has one replica; --replicas, --min-replicas and --max-replicas need --backend ray"
        )
    if scales and options.replicas > 1:
        parser.error("--replicas is a fixed number; leave it out with --min-replicas and --max-replicas")
    return options


def config_from(options: argparse.Namespace) -> LlmConfig:
    """The configuration behind a parsed command line.

    Raises:
        ValueError, CredentialsError: settings that do not go together.
    """
    return LlmConfig(
        model=options.model,
        listen=options.listen,
        revision=options.revision,
        device=options.device,
        dtype=options.dtype,
        backend=BackendKind(options.backend),
        replicas=options.replicas,
        engine=EngineConfig(
            page_size=options.page_size,
            kv_tokens=options.kv_tokens,
            max_batch_tokens=options.max_batch_tokens,
            max_running=options.max_running,
            caller_share=options.caller_share,
            max_waiting=options.max_waiting,
            slab_tokens=options.slab_tokens,
            memory_fraction=options.memory_fraction,
        ),
        ray=RayConfig(
            address=options.ray_address,
            application=options.ray_application,
            min_replicas=options.min_replicas,
            max_replicas=options.max_replicas,
            num_cpus=options.cpus_per_replica,
            num_gpus=options.gpus_per_replica,
            max_ongoing_requests=options.max_ongoing_requests,
            max_queued_requests=options.max_queued_requests,
        ),
        limits=Limits(
            max_images=options.max_images,
            max_prompt_characters=options.max_prompt_characters,
            default_max_new_tokens=options.default_max_new_tokens,
            upload_idle_seconds=options.upload_idle,
            upload_seconds=options.upload_time,
            max_calls=options.max_calls,
            max_uploads=options.max_uploads,
            max_upload_bytes=options.max_upload_bytes,
            caller_share=options.caller_share,
        ),
        grace=options.grace,
        log_level=options.log_level,
        telemetry=telemetry_from(options, os.environ),
        security=server_security_from(options),
    )
