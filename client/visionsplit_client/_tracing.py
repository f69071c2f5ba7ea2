"""A span for each call, and its W3C trace context in the call's metadata, where the application uses OpenTelemetry.

The spans go to the tracer provider that the application has set up. Without the package opentelemetry-api nothing
happens here.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import visionsplit
from visionsplit.wire.request_id import REQUEST_ID_KEY

try:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    INSTALLED = False
else:
    INSTALLED = True

Metadata = tuple[tuple[str, str], ...]


class CallTrace:
    """Of one call, with all its tries."""

    def __init__(self, method: str, metadata: Metadata) -> None:
        """
        Args:
            method: the protocol's name, such as "EncoderService/Generate".
            metadata: of the call, the request's id among it.
        """
        self._method = method
        self._metadata = metadata
        self._context: Context | None = None  # of the span, once the call runs

    def metadata(self) -> Metadata:
        """What to send along: the call's metadata, and the trace if there is one."""
        carrier: dict[str, str] = {}
        if INSTALLED:
            TraceContextTextMapPropagator().inject(carrier, context=self._context)
        return (*self._metadata, *carrier.items())

    @contextmanager
    def running(self) -> Iterator[None]:
        """The span, a child of the current one; it does not become the current one, since a stream's reader comes and
        goes while it runs."""
        if not INSTALLED:
            yield
            return
        tracer = trace.get_tracer("visionsplit_client", visionsplit.__version__)
        span = tracer.start_span(f"visionsplit.v1.{self._method}", kind=trace.SpanKind.CLIENT)
        span.set_attribute("visionsplit.request_id", dict(self._metadata)[REQUEST_ID_KEY])
        self._context = trace.set_span_in_context(span)
        try:
            yield
        except GeneratorExit:  # the reader has seen enough
            span.set_attribute("visionsplit.given_up", True)
            raise
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(trace.StatusCode.ERROR)
            raise
        finally:
            span.end()
