"""`grpc.health.v1.Health` of a service: whether the service takes calls, asked once or watched.

grpcio-health-checking has a servicer of its own, which is not used: when one of its watchers leaves, the others hear of
no change any more, and it keeps state for every service name that a caller invents.
"""

import asyncio
import secrets
from typing import TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from visionsplit.errors import OverloadedError
from visionsplit.fairness import Shares
from visionsplit.parameters import quoted
from visionsplit.wire.caller import Callers
from visionsplit.wire.status import abort

HEALTH_SERVICE_NAME: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
# Trailing metadata of Check: drawn at the start of a service, so that who asks again and again notices a restart.
INSTANCE_KEY = "visionsplit-instance"

MAX_WATCHERS = 256
_PEER_SHARE = 0.75  # of the watchers that calls from one address may be
_RETRY_SECONDS = 10.0

_Request: TypeAlias = health_pb2.HealthCheckRequest
_Response: TypeAlias = health_pb2.HealthCheckResponse
_Context: TypeAlias = "grpc.aio.ServicerContext[_Request, _Response]"


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
        self._watchers: set[asyncio.Event] = set()  # each is set while its watcher has not seen the present status
        self._places = Shares(MAX_WATCHERS, _PEER_SHARE)
        self._peers = Callers(None)

    def set(self, *, serving: bool) -> None:
        """Say whether the service takes calls. Nothing happens after `shut_down`."""
        if self._ending:
            return
        response = health_pb2.HealthCheckResponse
        self._status = response.SERVING if serving else response.NOT_SERVING
        for changed in self._watchers:
            changed.set()

    def shut_down(self) -> None:
        """Say that the service does not take calls, for good: what `set` says later, a slow replica's return for
        example, does not bring callers back to a service that ends."""
        self.set(serving=False)
        self._ending = True

    async def Check(self, request: _Request, context: _Context) -> _Response:  # noqa: N802 - the protocol's name
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"this server has no service {quoted(request.service)}")
        context.set_trailing_metadata(((INSTANCE_KEY, self._instance),))
        return health_pb2.HealthCheckResponse(status=self._status)

    # The stubs expect a generator; this is a coroutine that writes, as the services' own methods are.

    async def Watch(self, request: _Request, context: _Context) -> None:  # noqa: N802 - the protocol's name
        peer = self._peers.of(context)
        if not self._places.fits(peer, 1):
            await abort(context, OverloadedError("too many calls watch the health of this server", _RETRY_SECONDS))
        self._places.take(peer, 1)
        try:
            if request.service in self._names:
                await self._follow(context)
            else:
                # The protocol keeps such a call open, since a server may learn of a service later. This one never does.
                await context.write(
                    health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
                )
                await asyncio.Event().wait()
        finally:
            self._places.give_back(peer, 1)

    async def _follow(self, context: _Context) -> None:
        """Write the status now and after each change, until the call is cancelled.

        No status is kept for a watcher: one that reads slowly gets the status of the moment at which it can be
        written, and skips those before.
        """
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            told = None
            while True:
                changed.clear()
                if (status := self._status) != told:
                    await context.write(health_pb2.HealthCheckResponse(status=status))
                    told = status
                await changed.wait()
        finally:
            self._watchers.discard(changed)
