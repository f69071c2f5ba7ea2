"""Telemetry settings, read once at start-up from options and the standard OpenTelemetry variables."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass

from visionsplit.network.addresses import split_host_port

_LOOPBACK = "127.0.0.1"
_ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


@dataclass(frozen=True)
class TelemetryConfig:
    """Settings of one service's telemetry; everything is off by default.

    Raises:
        ValueError: an address or endpoint is malformed.
    """

    metrics: str | None = None  # HOST:PORT at which metrics are served, or PORT on loopback; port 0 takes a free one
    otlp_endpoint: str | None = None  # the OpenTelemetry collector that receives traces over gRPC
    log_prompts: bool = False  # whether the log line of a call contains its prompt

    def __post_init__(self) -> None:
        if self.metrics is not None:
            metrics_address(self.metrics)
        if self.otlp_endpoint is not None and not self.otlp_endpoint.startswith(("http://", "https://")):
            raise ValueError(
                f"the OTLP endpoint is {self.otlp_endpoint!r}; http://HOST:PORT is needed, or https for TLS"
            )


def metrics_address(text: str) -> tuple[str, int]:
    """Split an address into host and port; a port alone means loopback.

    Raises:
        ValueError: the address is malformed.
    """
    try:
        return split_host_port(text if ":" in text else f"{_LOOPBACK}:{text}")
    except ValueError:
        raise ValueError(f"the address for metrics is {text!r}; HOST:PORT is needed, or PORT for loopback") from None


def add_telemetry_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `telemetry_from` reads, and `--log-format`."""
    group = parser.add_argument_group("telemetry")
    add = group.add_argument
    add(
        "--metrics",
        metavar="HOST:PORT",
        help="The address at which Prometheus metrics are served; a port alone means loopback. Default: none.",
    )
    add(
        "--otlp-endpoint",
        metavar="URL",
        help="The OpenTelemetry collector to which traces are sent, such as http://HOST:4317. Default: the one that "
        "OpenTelemetry's environment variables name, else none.",
    )
    add(
        "--log-format",
        default="text",
        choices=["text", "json"],
        help="The form of log lines; json writes one object a line. Default: %(default)s.",
    )
    add("--log-prompts", action="store_true", help="Write prompts, shortened, into the log. Without it they never are.")


def telemetry_from(options: argparse.Namespace, environment: Mapping[str, str]) -> TelemetryConfig:
    """The settings from a command line and, if it names no collector, from OpenTelemetry's own variables.

    Headers, certificates, time limits, sampling and resource attributes come only from those variables, which the
    OpenTelemetry SDK reads.

    Raises:
        ValueError: a setting is invalid.
    """
    return TelemetryConfig(
        metrics=options.metrics,
        otlp_endpoint=options.otlp_endpoint or _endpoint_of(environment),
        log_prompts=options.log_prompts,
    )


def _endpoint_of(environment: Mapping[str, str]) -> str | None:
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    endpoint = next((environment[name] for name in _ENDPOINT_VARIABLES if environment.get(name)), None)
    protocol = next((environment[name] for name in _PROTOCOL_VARIABLES if environment.get(name)), "grpc")
    if endpoint is not None and protocol != "grpc":
        raise ValueError(f"the environment asks for OTLP over {protocol}; traces go over grpc only")
    return endpoint
