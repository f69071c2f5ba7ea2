"""The command line: `python -m llm_service --model M`."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable

from visionsplit.checkpoint import DTYPES
from visionsplit.errors import VisionSplitError
from visionsplit.telemetry.config import add_telemetry_options, telemetry_from
from visionsplit.telemetry.logs import configure_logging
from visionsplit.wire.security.command_line import add_server_options, server_security_from
from visionsplit.wire.security.files import CredentialsError

from llm_service.config import BackendKind, EngineConfig, Limits, LlmConfig, RayConfig
from llm_service.server import LlmServer


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llm_service", description="Turns prompts with vision tokens into text.")
    add = parser.add_argument
    add("--model", required=True, help="LLaVA-NeXT checkpoint: a folder or a hub id")
    add("--revision", help="revision of a hub checkpoint")
    add("--listen", default="127.0.0.1:50052", help="address to serve on (default: %(default)s)")
    add("--device", help="default: cuda where there is one, else cpu")
    add("--dtype", choices=sorted(DTYPES), help="default: float32 on a CPU, else the checkpoint's own")
    add("--backend", choices=[kind.value for kind in BackendKind], default=BackendKind.LOCAL.value)
    add("--replicas", type=int, default=1, help="replicas, with --backend ray")
    add("--grace", type=float, default=30.0, help="seconds that running requests get on SIGTERM")
    add("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    add("--max-images", type=int, default=Limits.max_images, help="of one request")
    add("--default-max-new-tokens", type=int, default=Limits.default_max_new_tokens)
    add("--upload-idle", type=float, default=Limits.upload_idle_seconds, help="seconds an upload may be silent")
    add("--max-calls", type=int, help="calls at once (default: as many as the replicas have places for)")
    add("--max-uploads", type=int, default=Limits.max_uploads, help="requests being received at once")
    add("--max-upload-bytes", type=int, default=Limits.max_upload_bytes, help="vision tokens held, as float32")
    add("--caller-share", type=float, default=Limits.caller_share, help="part of calls and bytes for one caller")
    _add_engine_options(parser.add_argument_group("engine, of each replica"))
    _add_ray_options(parser.add_argument_group("Ray Serve"))
    add_server_options(parser)
    add_telemetry_options(parser)
    return parser


def _add_engine_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--page-size", type=int, help="tokens per page of the KV cache (default: 16 on a CPU, 256 on a GPU)")
    add("--kv-tokens", type=int, help="tokens the KV cache holds (default: 16384 on a CPU, by memory on a GPU)")
    add("--max-batch-tokens", type=int, help="tokens of one step (default: 512 on a CPU, the library's on a GPU)")
    add("--max-running", type=int, default=EngineConfig.max_running, help="requests of one step")
    add("--max-waiting", type=int, default=EngineConfig.max_waiting, help="requests that may wait")
    add("--slab-tokens", type=int, default=EngineConfig.slab_tokens, help="vision tokens held ready")
    add(
        "--memory-fraction",
        type=float,
        default=EngineConfig.memory_fraction,
        help="of the GPU memory left beside the weights, for the KV cache (default: %(default)s)",
    )


def _add_ray_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--ray-address", default=RayConfig.address, help="'local' for a cluster of its own (default), 'auto', host:port"
    )
    add("--ray-application", help="name on the cluster (default: made of the model and the address)")
    add("--min-replicas", type=int, help="autoscale between this number and --max-replicas")
    add("--max-replicas", type=int)
    add("--cpus-per-replica", type=float, default=RayConfig.num_cpus)
    add("--gpus-per-replica", type=float, default=RayConfig.num_gpus)
    add("--max-ongoing-requests", type=int, default=RayConfig.max_ongoing_requests, help="of one replica")
    add("--max-queued-requests", type=int, default=RayConfig.max_queued_requests)


def parse(arguments: list[str] | None = None) -> LlmConfig:
    """The configuration of a command line.

    Raises:
        ValueError, CredentialsError: a setting makes no sense.
    """
    return _config(_parser().parse_args(arguments))


def _config(options: argparse.Namespace) -> LlmConfig:
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
            default_max_new_tokens=options.default_max_new_tokens,
            upload_idle_seconds=options.upload_idle,
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


async def serve(config: LlmConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    told = asyncio.Event()
    _on_signals(told.set)
    server = LlmServer(config)
    await server.start()
    # Again: Ray has installed handlers of its own meanwhile.
    _on_signals(told.set)
    await told.wait()
    await server.stop(config.grace)


def _on_signals(callback: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, callback)


def main() -> int:
    """Entry point of `visionsplit-llm`; returns the process's exit status."""
    options = _parser().parse_args()
    configure_logging("llm", level=options.log_level, form=options.log_format, loggers=("llm_service", "visionsplit"))
    try:
        config = _config(options)
    except (ValueError, CredentialsError) as error:
        return _fail(error)
    try:
        asyncio.run(serve(config))
    except VisionSplitError as error:
        return _fail(error)
    return 0


def _fail(error: Exception) -> int:
    print(f"llm_service: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
