"""What a server puts around its methods, whichever of gRPC's four kinds they are of."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio

from visionsplit.errors import InternalError, VisionSplitError
from visionsplit.wire.grpc_status import set_status

Behavior: TypeAlias = Callable[..., Awaitable[Any]]
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = Any  # a grpc.RpcMethodHandler, whose kinds grpc does not type


class HandlerInterceptor(grpc.aio.ServerInterceptor):
    """Puts another handler in the place of a method's."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        # gRPC answers for a method that does not exist, and other interceptors see that it does not.
        handler = await continuation(handler_call_details)
        return None if handler is None else self.replaced(handler, handler_call_details)

    def replaced(self, handler: Handler, details: grpc.HandlerCallDetails) -> Handler:
        raise NotImplementedError


class CallInterceptor(HandlerInterceptor):
    """Runs `around` in place of the behaviour of each call."""

    methods = "/"  # what the path of a method begins with; other methods are left alone

    def replaced(self, handler: Handler, details: grpc.HandlerCallDetails) -> Handler:
        method = details.method
        if not method.startswith(self.methods):
            return handler
        kind, behavior = behavior_of(handler)

        async def wrapped(request: object, context: Context) -> object:
            return await self.around(behavior, method, request, context)

        return handler._replace(**{kind: wrapped})

    async def around(self, behavior: Behavior, method: str, request: object, context: Context) -> object:
        raise NotImplementedError


class ErrorInterceptor(CallInterceptor):
    """Ends every call with exactly one status; the details of an unexpected error go only to the log."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log

    async def around(self, behavior: Behavior, method: str, request: object, context: Context) -> object:
        try:
            return await behavior(request, context)
        except VisionSplitError as error:
            failure = _without_frames(error)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            # A write in progress when the caller leaves fails with an error of gRPC.
            if isinstance(error, grpc.aio.InternalError) or context.done():
                self._log.debug("%s: the caller left", method, exc_info=True)
                return None
            self._log.exception("%s failed", method)
            failure = InternalError("internal error; the service's log has the details")
        set_status(context, failure)
        return None


def behavior_of(handler: Handler) -> tuple[str, Callable[..., Any]]:
    """The function that a method's handler calls, and the name of the field that holds it."""
    for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
        behavior: Callable[..., Any] | None = getattr(handler, kind)
        if behavior is not None:
            return kind, behavior
    raise ValueError("the handler has no behaviour")


def _without_frames(error: VisionSplitError) -> VisionSplitError:
    """The error without its causes and without its traceback, whose frames' variables hold the request."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
