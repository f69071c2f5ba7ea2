"""`visionsplit info`: what both services run, offer and accept."""

import argparse
import sys
from collections.abc import Callable
from typing import TypeVar

from visionsplit.errors import VisionSplitError

from visionsplit_client._info import EncoderInfo, LlmInfo
from visionsplit_client.cli import _options, _report

InfoT = TypeVar("InfoT")


def add_parser(commands: _options.Subparsers) -> None:
    parser = commands.add_parser("info", help="describe the running services", description=__doc__)
    _options.add_json(parser)
    _options.add_connection(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    with _options.client_from(args) as client:
        health = client.health()
        encoder = _or_none(client.encoder_info)
        llm = _or_none(client.llm_info)
    if args.json:
        _report.print_json({"health": health, "encoder": encoder, "llm": llm})
    else:
        for address, status in health.items():
            print(f"{address}  {status.value}")
        if encoder is not None:
            _print_encoder(encoder)
        if llm is not None:
            _print_llm(llm)
    return 0 if encoder is not None and llm is not None else 1


def _or_none(ask: Callable[[], InfoT]) -> InfoT | None:
    """One service's failure must not hide what the other says."""
    try:
        return ask()
    except VisionSplitError as error:
        print(f"visionsplit: {error}", file=sys.stderr)
        return None


def _print_encoder(info: EncoderInfo) -> None:
    grids = ", ".join(f"{rows}x{columns}" for rows, columns in info.grids)
    default = info.default_compression
    ratio = "" if default.retention_ratio is None else f" at {default.retention_ratio:g}"
    print(f"\nencoder: {info.model} on {info.device}, version {info.version}")
    print(f"  tiles of {info.tile_pixels} px, patches of {info.patch_pixels} px, grids (rows x columns) {grids}")
    print(f"  features {info.format.feature_size} wide, fingerprint {info.format.encoder_fingerprint}")
    print(f"  default: {default.method}{ratio}, {default.layout} layout, {info.default_data_type}")
    print(f"  at most {info.max_images} images, {info.max_image_pixels} pixels each, {info.max_request_bytes} bytes")
    for title, choices in (
        ("methods", info.methods),
        ("scores", info.scores),
        ("budgets", info.budgets),
        ("selections", info.selections),
    ):
        print(f"  {title}")
        for choice in choices:
            parameters = "".join(f" {name}={value:g}" for name, value in choice.parameters.items())
            print(f"    {choice.name}{parameters}: {choice.description}")


def _print_llm(info: LlmInfo) -> None:
    print(f"\nLLM: {info.model} on {info.device}, version {info.version}")
    print(f"  {info.backend} backend, {info.replicas} replicas, engine {info.engine}")
    print(f"  context of {info.context_length} tokens, at most {info.max_new_tokens} new ones")
    print(f"  by default {info.default_max_new_tokens} new tokens; at most {info.max_images} images")
