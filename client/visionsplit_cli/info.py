"""`visionsplit info`: what both services run, offer and accept.

The exit code is 0 if an encoder service answers. The LLM service may be out of reach, as applications need no
connection to it.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from visionsplit.errors import VisionSplitError
from visionsplit.visible import counted
from visionsplit_client import DEFAULT_ENCODER, EncoderInfo, HealthStatus, LlmInfo, NamedChoice

from visionsplit_cli import hints, options, output, report

InfoT = TypeVar("InfoT")


@dataclass(frozen=True)
class _Service:
    service: str  # "encoder service"
    address: str
    health: HealthStatus


def add_parser(commands: options.Subparsers) -> None:
    parser = commands.add_parser("info", help="describe the running services", description=__doc__)
    parser.add_argument(
        "--parts",
        action="store_true",
        help="Also list the scores, budgets, selections and mergings that methods are made of.",
    )
    options.add_json(parser)
    options.add_connection(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    with options.client_from(args) as client:
        health = client.health_details()
        services = _services(args, {address: one.status for address, one in health.items()})
        encoder = _or_none(client.encoder_info, services, "encoder service")
        llm = _or_none(client.llm_info, services, "LLM service")
    if args.json:
        report.print_json({"services": services, "encoder": encoder, "llm": llm})
    else:
        width = max(len(one.address) for one in services)
        for one in services:
            print(f"{one.service:<15}  {one.address:<{width}}  {one.health.value}")
        if encoder is not None:
            _print_encoder(encoder, parts=args.parts)
        if llm is not None:
            _print_llm(llm)
    for address in args.encoder or [DEFAULT_ENCODER]:
        if health[address].reason:
            output.warn(health[address].reason)
    if all(one.health is HealthStatus.UNREACHABLE for one in services if one.service == "encoder service"):
        output.warn(f"no encoder service can be reached{hints.start_hint(args.encoder or [DEFAULT_ENCODER])}")
    return 0 if encoder is not None else 1


def _services(args: argparse.Namespace, health: Mapping[str, HealthStatus]) -> list[_Service]:
    encoders = [_Service("encoder service", address, health[address]) for address in args.encoder or [DEFAULT_ENCODER]]
    return [*encoders, _Service("LLM service", args.llm, health[args.llm])]


def _or_none(ask: Callable[[], InfoT], services: list[_Service], name: str) -> InfoT | None:
    """One service's failure must not hide what the other says. A service that cannot be reached is not asked."""
    if all(one.health is HealthStatus.UNREACHABLE for one in services if one.service == name):
        return None
    try:
        return ask()
    except VisionSplitError as error:
        output.warn(str(error))
        return None


def _print_encoder(info: EncoderInfo, *, parts: bool) -> None:
    grids = ", ".join(f"{rows}x{columns}" if rows else "none" for rows, columns in info.grids)
    default = info.default_compression
    ratio = "" if default.retention_ratio is None else f" at {default.retention_ratio:g}"
    print(f"\nencoder: {info.model} ({info.format.family}) on {info.device}, version {info.version}")
    print(f"  tiles of {info.tile_pixels} px, patches of {info.patch_pixels} px, grids (rows x columns) {grids}")
    print(f"  features {info.format.feature_size} wide, fingerprint {info.format.encoder_fingerprint}")
    print(f"  default: {default.method}{ratio}, {default.layout} layout, {info.default_data_type}")
    print(f"  at most {info.max_images} images, {info.max_image_pixels} pixels each, {info.max_request_bytes} bytes")
    for name in ("methods", *(("scores", "budgets", "selections", "mergings") if parts else ())):
        _print_choices(name, getattr(info, name))


def _print_llm(info: LlmInfo) -> None:
    print(f"\nLLM: {info.model} on {info.device}, version {info.version}")
    print(f"  {info.backend} backend, {counted(info.replicas, 'replica')}, engine {info.engine}")
    print(f"  context of {info.context_length} tokens, at most {info.max_new_tokens} new ones")
    print(f"  by default {info.default_max_new_tokens} new tokens; at most {info.max_images} images")
    _print_choices("pruning methods", info.pruning_methods)


def _print_choices(title: str, choices: Sequence[NamedChoice]) -> None:
    print(f"  {title}")
    for choice in choices:
        parameters = "".join(f" {name}={value:g}" for name, value in sorted(choice.parameters.items()))
        print(f"    {choice.name}{parameters}: {choice.description}")
