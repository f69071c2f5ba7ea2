"""Interceptors that see every call of our services from outside: one counts, one traces.

They belong outside the interceptor that maps errors.
"""

import asyncio
import time

import grpc
import grpc.aio
from opentelemetry.trace import SpanKind, StatusCode, Tracer

from visionsplit.serving.interceptors import Behavior, CallInterceptor, Context
from visionsplit.telemetry.metrics import CallMetrics
from visionsplit.telemetry.tracing import context_of
from visionsplit.wire.grpc_status import ERROR_METADATA_KEY

OUR_METHODS = "/visionsplit."  # not the health check and not reflection


class MetricsInterceptor(CallInterceptor):
    """Counts and times calls."""

    methods = OUR_METHODS

    def __init__(self, metrics: CallMetrics) -> None:
        self._metrics = metrics

    async def around(self, behavior: Behavior, method: str, request: object, context: Context) -> object:
        name = method.rpartition("/")[2]
        started = time.monotonic()
        code = grpc.StatusCode.OK
        running = self._metrics.in_flight.labels(name)
        running.inc()
        try:
            result = await behavior(request, context)
            code = status_at_end(context, None)
            return result
        except BaseException as error:
            code = status_at_end(context, error)
            raise
        finally:
            running.dec()
            self._metrics.requests.labels(name, code.name).inc()
            self._metrics.seconds.labels(name, code.name).observe(time.monotonic() - started)


class TracingInterceptor(CallInterceptor):
    """Creates a span for each call, as a child of the caller's span, and makes it current while the call runs.

    With a tracer that records nothing, the caller's trace context is still passed on to the next service.
    """

    methods = OUR_METHODS

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    async def around(self, behavior: Behavior, method: str, request: object, context: Context) -> object:
        service, _, name = method.removeprefix("/").rpartition("/")
        with self._tracer.start_as_current_span(
            f"{service}/{name}",
            context=context_of(context.invocation_metadata()),
            kind=SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
            # The texts of errors are not recorded, because they may quote the caller.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            error: BaseException | None = None
            try:
                return await behavior(request, context)
            except BaseException as caught:
                error = caught
                raise
            finally:
                code = status_at_end(context, error)
                span.set_attribute("rpc.grpc.status_code", code.value[0])
                if code is not grpc.StatusCode.OK:
                    span.set_attribute("error.type", _error_class(context) or code.name)
                    span.set_status(StatusCode.ERROR)


def status_at_end(context: Context, error: BaseException | None) -> grpc.StatusCode:
    """The final status of a call whose behaviour returned, or raised `error`."""
    code: grpc.StatusCode | None = context.code()
    if isinstance(error, grpc.aio.AbortError):
        return code or grpc.StatusCode.UNKNOWN
    if context.done() or context.cancelled() or isinstance(error, asyncio.CancelledError):
        late = context.time_remaining() == 0
        return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
    return code or (grpc.StatusCode.OK if error is None else grpc.StatusCode.UNKNOWN)


def _error_class(context: Context) -> str | None:
    metadata = context.trailing_metadata() or ()
    return next((str(value) for key, value in metadata if key == ERROR_METADATA_KEY), None)
