"""`grpc.health.v1.Health` of a service: whether the service takes calls, asked once or watched.

grpcio-health-checking has a servicer of its own, which is not used: when one of its watchers leaves, the others hear of
no change any more, and it keeps state for every service name that a caller invents.
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
# Trailing metadata of Check: drawn at the start of a service, so that who asks again and again notices a restart.
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
        # Set while the watcher has not seen the present status, or has to end.
        self.changed = asyncio.Event()
        self.given_up = False


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """The health of one service, under its name and under "", which stands for the whole server.

    The service does not serve until `set` says so. Used from one event loop.
    """

    def __init__(self, service: str) -> None:
        """`service` is the full name in the protocol, such as `visionsplit.v1.LlmService`."""
        self._names = frozenset({"", service})
        self._status = health_pb2.HealthCheckResponse.NOT_SERVING
        self._ending = False
        self._instance = secrets.token_hex(8)
        self._watchers: ByCaller[_Watcher] = ByCaller()
        self._unread: Counter[str] = Counter()  # watchers that were given up and have not ended, by peer
        self._peers = Callers(None)

    def set(self, *, serving: bool) -> None:
        """Say whether the service takes calls. Nothing happens after `shut_down`."""
        if self._ending:
            return
        response = health_pb2.HealthCheckResponse
        self._status = response.SERVING if serving else response.NOT_SERVING
        for watcher in self._watchers:
            watcher.changed.set()

    def shut_down(self) -> None:
        """Say that the service does not take calls, for good: what `set` says later, a slow replica's return for
        example, does not bring callers back to a service that ends."""
        self.set(serving=False)
        self._ending = True

    async def Check(self, request: _Request, context: _Context) -> _Response:  # noqa: N802 - the protocol's name
        if request.service not in self._names:
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details(f"this server has no service {quoted(request.service)}")
            return health_pb2.HealthCheckResponse()
        context.set_trailing_metadata(((INSTANCE_KEY, self._instance),))
        return health_pb2.HealthCheckResponse(status=self._status)

    # The stubs expect a generator; this is a coroutine that writes, as the services' own methods are.

    async def Watch(self, request: _Request, context: _Context) -> None:  # noqa: N802 - the protocol's name
        watcher = _Watcher(self._peers.of(context))
        too_many = OverloadedError("too many calls watch the health of this server", _RETRY_SECONDS)
        if self._unread[watcher.peer] >= MAX_WATCHERS:
            raise too_many
        if len(self._watchers) >= MAX_WATCHERS:
            # Not the new one: those of a few addresses could keep all others out for as long as they like.
            self._give_up(self._watchers.oldest_of_busiest())
        self._watchers.add(watcher.peer, watcher)
        try:
            await self._follow(watcher, context, known=request.service in self._names)
            raise too_many
        finally:
            self._watchers.remove(watcher.peer, watcher)
            if watcher.given_up:
                self._unread -= Counter((watcher.peer,))

    def _give_up(self, watcher: _Watcher) -> None:
        # One that does not read ends only with its connection: gRPC sends no status behind a message that is not read.
        self._unread[watcher.peer] += 1
        self._watchers.remove(watcher.peer, watcher)
        watcher.given_up = True
        watcher.changed.set()

    async def _follow(self, watcher: _Watcher, context: _Context, *, known: bool) -> None:
        """Write the status now and after each change, until the call is cancelled or given up for others.

        No status is kept for a watcher: one that reads slowly gets the status of the moment at which it can be
        written, and skips those before. The protocol keeps the watch of an unknown service open, since a server may
        learn of one later. This one never does.
        """
        told = None
        while not watcher.given_up:
            watcher.changed.clear()
            status = self._status if known else health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            if status != told:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                told = status
            await watcher.changed.wait()
