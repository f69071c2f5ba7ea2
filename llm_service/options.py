"""The LLM service's options, with the defaults of its configuration."""

import argparse

from visionsplit.cli.command_line import (
    LOG_LEVELS,
    OneLineParser,
    at_least,
    device,
    host_port,
    not_negative,
    positive,
    share,
)
from visionsplit.cli.security_options import add_server_options
from visionsplit.options.data_types import DTYPE_NAMES
from visionsplit.telemetry.config import add_telemetry_options

from llm_service.config import BackendKind, EngineConfig, Limits, LlmConfig, RayConfig

PROGRAM = "visionsplit-llm"


def build_parser() -> argparse.ArgumentParser:
    """The command line, with the defaults of `LlmConfig`."""
    parser = OneLineParser(
        prog=PROGRAM, description="Turns prompts with vision tokens into text, streamed as it is generated."
    )
    _add_model(parser.add_argument_group("model"))
    _add_serving(parser.add_argument_group("serving"))
    _add_limits(parser.add_argument_group("limits"))
    _add_engine(parser.add_argument_group("engine of each replica"))
    _add_ray(parser.add_argument_group("Ray Serve, with --backend ray"))
    add_server_options(parser)
    add_telemetry_options(parser)
    return parser


def _add_model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--model", required=True, help="The LLaVA-NeXT checkpoint, as a folder or a Hugging Face hub id. Required.")
    add("--revision", help="The revision of a hub id. Default: the hub's main revision.")
    add(
        "--device",
        type=device,
        help="The device of each replica: cpu, cuda or cuda:N. Default: a GPU, or the CPU where there is none.",
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
        default=LlmConfig.listen,
        metavar="HOST:PORT",
        help="The address to listen on; port 0 takes a free one. Default: %(default)s.",
    )
    add(
        "--backend",
        choices=[kind.value for kind in BackendKind],
        default=LlmConfig.backend.value,
        help="Where replicas of the language model run: local is one in this process, ray is any number on Ray Serve. "
        "Default: %(default)s.",
    )
    add(
        "--replicas",
        type=at_least(1),
        default=LlmConfig.replicas,
        metavar="N",
        help="The fixed number of replicas, with --backend ray. Default: %(default)s.",
    )
    add(
        "--grace",
        type=not_negative,
        default=LlmConfig.grace,
        metavar="SECONDS",
        help="How long running calls may go on after the service was told to stop. Default: %(default)g.",
    )
    add(
        "--log-level",
        default=LlmConfig.log_level,
        choices=LOG_LEVELS,
        help="The least severe messages to log. Default: %(default)s.",
    )


def _add_limits(group: argparse._ArgumentGroup) -> None:
    def add(option: str, default: int | None, text: str, without: str = "%(default)s") -> None:
        group.add_argument(option, type=at_least(1), default=default, metavar="N", help=f"{text} Default: {without}.")

    add("--max-images", Limits.max_images, "The most images in one request.")
    add(
        "--max-prompt-characters",
        Limits.max_prompt_characters,
        "The most characters of one prompt. Prompts that cannot fit the context are refused whatever this says.",
    )
    add(
        "--default-max-new-tokens",
        Limits.default_max_new_tokens,
        "The most tokens of an answer, unless a request says.",
    )
    add(
        "--max-calls",
        Limits.max_calls,
        "The most calls at one time, from the end of their uploads on; further ones are refused.",
        "as many as the replicas can run and queue",
    )
    add("--max-uploads", Limits.max_uploads, "The most requests that are being received at one time.")
    add(
        "--max-upload-bytes",
        Limits.max_upload_bytes,
        "The most bytes of vision tokens held for all calls together, counted as float32.",
    )
    group.add_argument(
        "--caller-share",
        type=share,
        default=Limits.caller_share,
        metavar="SHARE",
        help="The share of calls, uploads and their bytes that one caller may take, above 0 and at most 1. Of a "
        "replica's running requests a caller leaves half as many to others. "
        "Default: %(default)g.",
    )
    group.add_argument(
        "--upload-idle",
        type=positive,
        default=Limits.upload_idle_seconds,
        metavar="SECONDS",
        help="The silence after which an upload is given up when other calls need its place or its room. "
        "Default: %(default)g.",
    )
    group.add_argument(
        "--upload-time",
        type=positive,
        default=Limits.upload_seconds,
        metavar="SECONDS",
        help="The longest time that an upload may take. An encoder sends tokens as they are ready, so this covers the "
        "wait in the encoder's queue. Default: %(default)g.",
    )


def _add_engine(group: argparse._ArgumentGroup) -> None:
    def add(option: str, default: int | None, text: str, without: str = "%(default)s") -> None:
        group.add_argument(option, type=at_least(1), default=default, metavar="N", help=f"{text} Default: {without}.")

    add(
        "--page-size",
        EngineConfig.page_size,
        "The number of tokens in a page of the KV cache.",
        "16 on the CPU, 256 on a GPU",
    )
    add(
        "--kv-tokens",
        EngineConfig.kv_tokens,
        "The number of tokens that the KV cache holds.",
        "16384 on the CPU, what --memory-fraction has room for on a GPU",
    )
    add(
        "--max-batch-tokens",
        EngineConfig.max_batch_tokens,
        "The most tokens in one step; longer prompts are read in several.",
        "512 on the CPU, the transformers library's choice on a GPU",
    )
    add("--max-running", EngineConfig.max_running, "The most requests in one step.")
    add("--max-waiting", EngineConfig.max_waiting, "The most requests that wait to run; further ones are refused.")
    add(
        "--slab-tokens",
        EngineConfig.slab_tokens,
        "The most vision tokens held for running requests and for images that come again.",
    )
    group.add_argument(
        "--memory-fraction",
        type=share,
        default=EngineConfig.memory_fraction,
        metavar="SHARE",
        help="The share of the GPU memory left beside the weights that the KV cache takes, above 0 and at most 1. "
        "Default: %(default)g.",
    )


def _add_ray(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--ray-address",
        default=RayConfig.address,
        metavar="ADDRESS",
        help="The Ray cluster: local starts one on this machine, auto joins the one that this machine belongs to, "
        "HOST:PORT joins another. Default: %(default)s.",
    )
    add(
        "--ray-application",
        metavar="NAME",
        help="The name of the application on the cluster. Default: made of the model and the address.",
    )
    add(
        "--min-replicas",
        type=at_least(1),
        metavar="N",
        help="The fewest replicas; together with --max-replicas their number then follows the load. Default: the "
        "number is fixed.",
    )
    add("--max-replicas", type=at_least(1), metavar="N", help="The most replicas. Default: the number is fixed.")
    add(
        "--cpus-per-replica",
        type=not_negative,
        default=RayConfig.num_cpus,
        metavar="N",
        help="The CPU cores that Ray reserves for a replica. Default: %(default)g.",
    )
    add(
        "--gpus-per-replica",
        type=not_negative,
        default=RayConfig.num_gpus,
        metavar="N",
        help="The GPUs that Ray reserves for a replica; a fraction shares one. Default: 1 where the Ray cluster has "
        "GPUs and --device is not cpu, else 0.",
    )
    add(
        "--max-ongoing-requests",
        type=at_least(1),
        default=RayConfig.max_ongoing_requests,
        metavar="N",
        help="The most requests that one replica runs and queues. Default: %(default)s.",
    )
    add(
        "--max-queued-requests",
        type=at_least(1),
        default=RayConfig.max_queued_requests,
        metavar="N",
        help="The most requests that wait for a replica. Default: %(default)s.",
    )
