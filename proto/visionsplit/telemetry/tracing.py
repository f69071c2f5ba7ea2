"""OpenTelemetry traces: W3C trace context in a call's metadata, and spans for the stages of a call.

The services need only the API; the SDK and the exporter belong to the extra `tracing` and are imported only if traces
are enabled. Span attributes are the project's own numbers and names, never a prompt, an image or an error's text.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NoOpTracer, Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import visionsplit
from visionsplit.errors import UnavailableError
from visionsplit.network.proxies import proxy_options

Attributes = Mapping[str, str | int | float | bool]

_PREFIX = "visionsplit."
_propagator = TraceContextTextMapPropagator()


class Tracing:
    """A service's tracer, and the exporter that has to be closed after use."""

    def __init__(self, service: str, otlp_endpoint: str | None) -> None:
        """Create a tracer; without an endpoint it records nothing.

        Raises:
            UnavailableError: traces are enabled, but the extra `tracing` is not installed.
        """
        self.tracer: Tracer = NoOpTracer()
        self._shutdown: Callable[[], None] = lambda: None
        if otlp_endpoint is not None:
            self._connect(service, otlp_endpoint)

    def close(self) -> None:
        """Send the remaining spans and stop; blocks."""
        self._shutdown()

    def _connect(self, service: str, otlp_endpoint: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise UnavailableError(f"traces need the extra visionsplit[tracing]: {error}") from None
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence over the default name.
        own = Resource.create({"service.name": service, "service.version": visionsplit.__version__})
        provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=otlp_endpoint, channel_options=_channel_options(otlp_endpoint))
        provider.add_span_processor(BatchSpanProcessor(exporter))
        self._shutdown = provider.shutdown
        self.tracer = provider.get_tracer("visionsplit", visionsplit.__version__)


def context_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> Context:
    """The trace context in a call's metadata; an empty one if there is none."""
    carrier = {key: value for key, value in metadata or () if isinstance(value, str)}
    return _propagator.extract(carrier, context=Context())


def carrier_of(context: Context | None = None) -> dict[str, str]:
    """A trace context, by default the current one, as metadata or as part of a job; empty without a trace."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, context=context)
    return carrier


def describe_current(**attributes: str | int | float | bool) -> None:
    """Add attributes to the current span."""
    trace.get_current_span().set_attributes(_named(attributes))


@contextmanager
def stage(tracer: Tracer, name: str, *, kind: SpanKind = SpanKind.INTERNAL) -> Iterator[Span]:
    """A span around a stage, made the current one. Not for generators, which may be closed in another context."""
    with tracer.start_as_current_span(name, kind=kind, record_exception=False, set_status_on_exception=False) as span:
        try:
            yield span
        except BaseException as error:
            fail(span, error)
            raise


def past_stage(
    tracer: Tracer,
    name: str,
    start: float,
    end: float,
    *,
    context: Context | None = None,
    **attributes: str | int | float | bool,
) -> None:
    """Record a span for a stage that is over, between two moments of time.monotonic()."""
    offset = time.time() - time.monotonic()
    span = tracer.start_span(
        name, context=context, start_time=_nanoseconds(start + offset), attributes=_named(attributes)
    )
    span.end(_nanoseconds(max(end, start) + offset))


def fail(span: Span, error: BaseException) -> None:
    """Mark a span as failed, with the error's class and without its text."""
    span.set_attribute("error.type", type(error).__name__)
    span.set_status(StatusCode.ERROR)


def _channel_options(otlp_endpoint: str) -> tuple[tuple[str, str]]:
    """Proxy options for the exporter: gRPC itself would use a proxy even for a collector on this machine."""
    address = urlsplit(otlp_endpoint).netloc or otlp_endpoint  # a URL, or HOST:PORT alone
    # The exporter annotates a single pair of strings, but accepts any number of pairs, and numbers as values.
    return tuple(proxy_options(address))  # type: ignore[return-value]


def _named(attributes: Attributes) -> dict[str, str | int | float | bool]:
    return {_PREFIX + name: value for name, value in attributes.items()}


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
