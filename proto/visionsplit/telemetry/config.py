"""Telemetry settings, read once at start-up from options and the standard OpenTelemetry variables."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from visionsplit.command_line.parser import LOG_LEVELS, Kind, flag, one_of
from visionsplit.command_line.settings import ConfigError, check, setting
from visionsplit.network.addresses import split_host_port

_LOOPBACK = "127.0.0.1"
_ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def metrics_address(text: str) -> tuple[str, int]:
    """Split an address into host and port; a port alone means loopback.

    Raises:
        ValueError: the address is malformed.
    """
    try:
        return split_host_port(text if ":" in text else f"{_LOOPBACK}:{text}")
    except ValueError:
        raise ValueError(f"the address for metrics is {text!r}; HOST:PORT is needed, or PORT for loopback") from None


def _metrics(text: str) -> str:
    metrics_address(text)
    return text


def _endpoint(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError(f"the OTLP endpoint is {text!r}; http://HOST:PORT is needed, or https for TLS")
    return text


def otlp_endpoint_of(environment: Mapping[str, str]) -> str | None:
    """The collector that OpenTelemetry's standard variables name, if traces are on.

    Headers, certificates, time limits, sampling and resource attributes come from such variables alone: the
    OpenTelemetry SDK reads them.

    Raises:
        ConfigError: the variables ask for another protocol than gRPC.
    """
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    endpoint = next((environment[name] for name in _ENDPOINT_VARIABLES if environment.get(name)), None)
    protocol = next((environment[name] for name in _PROTOCOL_VARIABLES if environment.get(name)), "grpc")
    if endpoint is not None and protocol != "grpc":
        raise ConfigError(f"the environment asks for OTLP over {protocol}; traces go over grpc only")
    return endpoint


_telemetry = partial(setting, "telemetry")


@dataclass(frozen=True)
class TelemetryConfig:
    """Settings of one service's telemetry; metrics and traces are off by default.

    Raises:
        ConfigError: an address or endpoint of another form.
    """

    metrics: str | None = _telemetry(
        None,
        Kind(_metrics, "HOST:PORT", "HOST:PORT"),
        "The address at which Prometheus metrics are served; a port alone means loopback. Port 0 takes a free one.",
    )
    otlp_endpoint: str | None = _telemetry(
        None,
        Kind(_endpoint, "http://HOST:PORT", "URL"),
        "The OpenTelemetry collector to which traces are sent over gRPC, such as http://HOST:4317.",
        absent="the one that OpenTelemetry's environment variables name, else none",
        fallback=otlp_endpoint_of,
    )
    log_level: str = _telemetry("INFO", one_of(LOG_LEVELS), "The least severe messages to log.")
    log_format: str = _telemetry(
        "text", one_of(("text", "json")), "The form of log lines; json writes one object a line."
    )
    log_prompts: bool = _telemetry(False, flag, "Write prompts, shortened, into the log. Without it they never are.")

    def __post_init__(self) -> None:
        check(self)
