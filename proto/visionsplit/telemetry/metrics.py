"""Building blocks of both services' metrics, and the HTTP page that shows them.

Label values come from fixed tables (calls, statuses, methods), never from a caller, so their number is bounded.
"""

import time
from dataclasses import dataclass
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

from visionsplit.errors import UnavailableError

# In seconds, from the milliseconds of a cached answer to a minute in a full queue.
LONG_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
SHORT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# In seconds between tokens, from a few milliseconds on a GPU to a second on a busy CPU.
TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0)
TILE_BUCKETS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256)


@dataclass(frozen=True)
class Metrics:
    """Makes the metrics of one service; the names of those in seconds end so."""

    registry: CollectorRegistry
    service: str  # "encoder" or "llm", part of each metric's name

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(self._name(name), text, labels, registry=self.registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(self._name(name), text, labels, registry=self.registry)

    def seconds(self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = LONG_BUCKETS) -> Histogram:
        return Histogram(self._name(f"{name}_seconds"), text, labels, buckets=buckets, registry=self.registry)

    def _name(self, name: str) -> str:
        return f"visionsplit_{self.service}_{name}"


class CallMetrics:
    """Calls of a service by method and status; an interceptor updates them."""

    def __init__(self, metrics: Metrics) -> None:
        labels = ("method", "code")
        self.requests = metrics.counter("requests", "Calls that ended, by gRPC status.", *labels)
        self.in_flight = metrics.gauge("requests_in_flight", "Calls that run.", "method")
        self.seconds = metrics.seconds("request", "Whole calls.", *labels)
        metrics.gauge("start_time_seconds", "When the service started, Unix time.").set(time.time())


def new_registry() -> CollectorRegistry:
    """A registry that includes the process's memory, processor time and open files, if the system reports them."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


class MetricsPage:
    """Serves a registry over HTTP from a separate thread."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        """Bind and serve.

        Raises:
            UnavailableError: the address cannot be bound.
        """
        try:
            running: tuple[WSGIServer, Thread] = start_http_server(port, host, registry)
        except OSError as error:
            where = f"{host}:{port}"
            raise UnavailableError(f"cannot listen on {where} for metrics: {error.strerror or error}") from None
        self._server, self._thread = running

    @property
    def port(self) -> int:
        return self._server.server_port

    def close(self) -> None:
        """Stop serving. Blocks for up to half a second."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
