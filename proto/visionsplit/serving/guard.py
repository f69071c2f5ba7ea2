"""A server's security at work: its credentials, and the refusal of calls without a valid token."""

import logging

import grpc
import grpc.aio

from visionsplit.errors import UnauthenticatedError, UnavailableError
from visionsplit.security.client import is_local
from visionsplit.security.server import ServerSecurity
from visionsplit.security.tokens import AcceptedTokens
from visionsplit.serving.interceptors import Context, Handler, HandlerInterceptor
from visionsplit.wire.grpc_status import set_status

_log = logging.getLogger(__name__)

# Load balancers and container runtimes call these without a token, and learn only whether the service is serving.
_OPEN_METHODS = ("/grpc.health.v1.Health/",)
_SHOWN_CHARACTERS = 100


class ServerSecurityStack:
    """A server's security, with its files loaded.

    Raises:
        CredentialsError: a file cannot be used.
    """

    def __init__(self, security: ServerSecurity) -> None:
        self._credentials = None if security.tls is None else security.tls.credentials()
        self.tokens = AcceptedTokens(security.token_files) if security.token_files else None

    @property
    def interceptors(self) -> list[grpc.aio.ServerInterceptor]:
        """To install before any interceptor that admits calls; interceptors that count calls may come earlier."""
        return [] if self.tokens is None else [_TokenInterceptor(self.tokens)]

    def bind(self, server: grpc.aio.Server, address: str) -> int:
        """Let a server listen on an address; return the port.

        Raises:
            UnavailableError: the address cannot be bound.
        """
        try:
            if self._credentials is not None:
                return server.add_secure_port(address, self._credentials)
            port = server.add_insecure_port(address)
        except RuntimeError:
            raise UnavailableError(f"cannot listen on {address}") from None
        if not is_local(address):
            exposed = "images and answers" if self.tokens is None else "images, answers and tokens"
            _log.warning("%s is reachable from other machines without TLS: %s are not encrypted", address, exposed)
        return port


class _TokenInterceptor(HandlerInterceptor):
    """Refuses every call without a valid token, including reflection, before reading any of it."""

    def __init__(self, tokens: AcceptedTokens) -> None:
        self._tokens = tokens

    def replaced(self, handler: Handler, details: grpc.HandlerCallDetails) -> Handler:
        if details.method.startswith(_OPEN_METHODS):
            return handler
        if self._tokens.holder(details.invocation_metadata or ()) is not None:
            return handler
        # Always a handler for streams: for other kinds gRPC would first wait for the request.
        return grpc.stream_stream_rpc_method_handler(_refuse)


async def _refuse(request_iterator: object, context: Context) -> None:
    _log.info("refused a call from %s: no valid token", context.peer()[:_SHOWN_CHARACTERS])
    set_status(context, UnauthenticatedError("a valid token is needed"))
