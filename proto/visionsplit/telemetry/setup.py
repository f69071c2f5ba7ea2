"""Starts and stops a server's telemetry as a whole."""

import logging
from collections.abc import Sequence

import grpc.aio

from visionsplit.telemetry.calls import MetricsInterceptor, TracingInterceptor
from visionsplit.telemetry.config import TelemetryConfig, metrics_address
from visionsplit.telemetry.metrics import CallMetrics, Metrics, MetricsPage, new_registry
from visionsplit.telemetry.tracing import Tracing

_log = logging.getLogger(__name__)


class Telemetry:
    """A server's metrics, traces and metrics page.

    Metrics are always counted, which costs microseconds; the page that shows them and the traces are optional.
    """

    def __init__(self, service: str, config: TelemetryConfig) -> None:
        """`service` is "encoder" or "llm".

        Raises:
            UnavailableError: traces are enabled, but their packages are not installed.
        """
        self._config = config
        self.registry = new_registry()
        self._calls = CallMetrics(Metrics(self.registry, service))
        self._tracing = Tracing(f"visionsplit-{service}", config.otlp_endpoint)
        self._page: MetricsPage | None = None
        self.tracer = self._tracing.tracer

    @property
    def interceptors(self) -> Sequence[grpc.aio.ServerInterceptor]:
        """To install before all others, so that they see the calls that those refuse."""
        return [TracingInterceptor(self.tracer), MetricsInterceptor(self._calls)]

    @property
    def metrics_port(self) -> int | None:
        """The port of the metrics page; None while it is not served."""
        return None if self._page is None else self._page.port

    def serve_metrics(self) -> None:
        """Serve the metrics page, if it is configured.

        Raises:
            UnavailableError: its address cannot be bound.
        """
        if self._config.metrics is not None:
            host, port = metrics_address(self._config.metrics)
            self._page = MetricsPage(self.registry, host, port)
            _log.info("metrics at http://%s:%d/metrics", f"[{host}]" if ":" in host else host, self._page.port)

    def close(self) -> None:
        """Close the page and send the last spans; blocks. Has no effect when called again."""
        page, self._page = self._page, None
        if page is not None:
            page.close()
        tracing, self._tracing = self._tracing, Tracing("", None)
        tracing.close()
