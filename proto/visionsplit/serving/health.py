"""`grpc.health.v1.Health`: whether the service accepts calls, asked once or watched.

grpcio-health-checking includes a servicer, which is not used for two reasons: when one of its watchers leaves, the
others are not notified of further changes, and it keeps state for every service name that a caller invents.
"""

import asyncio
import secrets
from collections import Counter
from typing import TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from visionsplit.errors import OverloadedError
from visionsplit.options.parameters import quoted
from visionsplit.serving.by_caller import ByCaller
from visionsplit.serving.caller import Callers

HEALTH_SERVICE_NAME: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
# Trailing metadata of Check: a random value per start of a service, so that a caller that polls notices a restart.
INSTANCE_KEY = "visionsplit-instance"

MAX_WATCHERS = 256
_RETRY_SECONDS = 10.0

_Request: TypeAlias = health_pb2.HealthCheckRequest
_Response: TypeAlias = health_pb2.HealthCheckResponse
_Context: TypeAlias = "grpc.aio.ServicerContext[_Request, _Response]"


class _Watcher:
    """A call that watches the health. Compared by identity."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        # Set if the watcher has not seen the present status, or has to end.
        self.changed = asyncio.Event()
        self.displaced = False


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """The health of one service, under its name and under "", which stands for the whole server.

    The status is NOT_SERVING until `set` changes it. Used from one event loop.
    """

    def __init__(self, service: str) -> None:
        """`service` is the full name in the protocol, such as `visionsplit.v1.LlmService`."""
        self._names = frozenset({"", service})
        self._status = health_pb2.HealthCheckResponse.NOT_SERVING
        self._ending = False
        self._instance = secrets.token_hex(8)
        self._watchers: ByCaller[_Watcher] = ByCaller()
        self._unread: Counter[str] = Counter()  # watchers that were displaced and have not ended, by peer
        self._peers = Callers(None)

    def set(self, *, serving: bool) -> None:
        """Set whether the service accepts calls. Has no effect after `shut_down`."""
        if self._ending:
            return
        response = health_pb2.HealthCheckResponse
        self._status = response.SERVING if serving else response.NOT_SERVING
        for watcher in self._watchers:
            watcher.changed.set()

    def shut_down(self) -> None:
        """Set the status to NOT_SERVING permanently: a later `set`, for example when a slow replica returns, must not
        bring callers back to a service that is stopping."""
        self.set(serving=False)
        self._ending = True

    async def Check(self, request: _Request, context: _Context) -> _Response:  # noqa: N802 - the protocol's name
        if request.service not in self._names:
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details(f"this server has no service {quoted(request.service)}")
            return health_pb2.HealthCheckResponse()
        context.set_trailing_metadata(((INSTANCE_KEY, self._instance),))
        return health_pb2.HealthCheckResponse(status=self._status)

    # The stubs expect a generator; this is a coroutine that writes, like the services' own methods.

    async def Watch(self, request: _Request, context: _Context) -> None:  # noqa: N802 - the protocol's name
        watcher = _Watcher(self._peers.of(context))
        too_many = OverloadedError("too many calls watch the health of this server", _RETRY_SECONDS)
        if self._unread[watcher.peer] >= MAX_WATCHERS:
            raise too_many
        if len(self._watchers) >= MAX_WATCHERS:
            # Displace an old watcher instead of refusing this one: otherwise a few addresses could keep all others out.
            self._displace(self._watchers.oldest_of_busiest())
        self._watchers.add(watcher.peer, watcher)
        try:
            await self._follow(watcher, context, known=request.service in self._names)
            raise too_many
        finally:
            self._watchers.remove(watcher.peer, watcher)
            if watcher.displaced:
                self._unread -= Counter((watcher.peer,))

    def _displace(self, watcher: _Watcher) -> None:
        # A watcher that does not read ends only with its connection: gRPC sends no status after an unread message.
        self._unread[watcher.peer] += 1
        self._watchers.remove(watcher.peer, watcher)
        watcher.displaced = True
        watcher.changed.set()

    async def _follow(self, watcher: _Watcher, context: _Context, *, known: bool) -> None:
        """Write the status now and after each change, until the call is cancelled or displaced by others.

        No status is queued for a watcher: one that reads slowly gets the status of the moment at which it can be
        written, and skips earlier ones. The protocol keeps the watch of an unknown service open, since a server may
        add it later; this server never does.
        """
        sent = None
        while not watcher.displaced:
            watcher.changed.clear()  # before reading the status, so that a change after this wakes the watcher again
            status = self._status if known else health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            if status != sent:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                sent = status
            await watcher.changed.wait()
