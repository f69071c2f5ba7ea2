"""Errors to gRPC statuses and back: the only place that knows both."""

import logging
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterable
from itertools import accumulate
from typing import Any

import grpc
import grpc.aio

from visionsplit import errors

ERROR_METADATA_KEY = "visionsplit-error"

# As it travels. gRPC limits all of a call's trailing metadata, to 8 KiB unless both ends agree on more, and replaces a
# status that is larger by one of its own.
_MAX_DETAILS_BYTES = 4096
_ELLIPSIS = "…"

# Looked up along an error's class hierarchy, so a subclass inherits its base's status.
_STATUS_OF: dict[type[errors.VisionSplitError], grpc.StatusCode] = {
    errors.InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.IncompatibleServicesError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.CancelledError: grpc.StatusCode.CANCELLED,
    errors.InternalError: grpc.StatusCode.INTERNAL,
}
_CLASS_OF = {status: cls for cls, status in _STATUS_OF.items()}
_BY_NAME: dict[str, type[errors.VisionSplitError]] = {name: getattr(errors, name) for name in errors.__all__}


def status_of(error: errors.VisionSplitError) -> grpc.StatusCode:
    """The gRPC status of an error."""
    for cls in type(error).__mro__:
        if cls in _STATUS_OF:
            return _STATUS_OF[cls]
    return grpc.StatusCode.INTERNAL


def error_from_rpc(rpc_error: grpc.RpcError) -> errors.VisionSplitError:
    """The error behind a failed call: the class the server named, else the one its status stands for."""
    code = rpc_error.code()
    details = rpc_error.details() or code.name
    metadata: Iterable[tuple[str, str | bytes]] = rpc_error.trailing_metadata() or ()  # type: ignore[assignment]
    named = {key: str(value) for key, value in metadata}
    cls = _BY_NAME.get(named.get(ERROR_METADATA_KEY, "")) or _CLASS_OF.get(code, errors.InternalError)
    return cls(details)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Ends every call of our services with exactly one status; an unexpected error's details go to the log only."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401 - a grpc.RpcMethodHandler, whose kinds grpc does not type
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith("/visionsplit."):
            return handler
        if handler.unary_unary:
            return handler._replace(unary_unary=self._guard(handler.unary_unary, method))
        if handler.unary_stream:
            return handler._replace(unary_stream=self._guard(handler.unary_stream, method))
        return handler._replace(stream_stream=self._guard(handler.stream_stream, method))

    def _guard(self, behavior: Callable[..., Awaitable[Any]], method: str) -> Callable[..., Awaitable[Any]]:
        async def guarded(request: object, context: grpc.aio.ServicerContext[Any, Any]) -> object:
            try:
                return await behavior(request, context)
            except errors.VisionSplitError as error:
                await _abort(context, error)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                # A write that was under way when the caller left fails in gRPC's own way.
                if isinstance(error, grpc.aio.InternalError) or context.done():
                    self._log.debug("%s: the caller left", method, exc_info=True)
                    return None
                self._log.exception("%s failed", method)
                await _abort(context, errors.InternalError("internal error; the service's log has the details"))
            return None  # not reached: abort raises

        return guarded


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: errors.VisionSplitError) -> None:
    metadata = ((ERROR_METADATA_KEY, type(error).__name__),)
    await context.abort(status_of(error), _shortened(str(error)), trailing_metadata=metadata)


def _shortened(details: str) -> str:
    """A status's text, cut to what may travel."""
    ends = list(accumulate(map(_encoded_size, details[: _MAX_DETAILS_BYTES + 1])))
    if not ends or ends[-1] <= _MAX_DETAILS_BYTES:
        return details
    return details[: bisect_right(ends, _MAX_DETAILS_BYTES - _encoded_size(_ELLIPSIS))] + _ELLIPSIS


def _encoded_size(character: str) -> int:
    """Bytes of one character in a status's text: those of printable ASCII but % stand for themselves, others as %XX."""
    return 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode("utf-8", "replace"))
