"""Waits until services that were just started here take calls, or finds out early that they never will."""

import socket
import time
from collections.abc import Callable, Sequence

from visionsplit.errors import UnavailableError
from visionsplit.network.addresses import split_host_port
from visionsplit.security.client import ClientSecurity
from visionsplit_client import Client, Health, HealthStatus, Retries

from visionsplit_cli.local_services.processes import Service, describe_exit

_CHECK_SECONDS = 1.0  # that a service may take to answer a health check
# A service listens only once it has loaded everything, so it answers at once, or something stands between.
_SILENCE_SECONDS = 10.0


def wait_until_healthy(
    services: Sequence[Service],
    *,
    timeout: float,
    pause: Callable[[], bool],
    security: ClientSecurity,
) -> bool:
    """True once all services take calls; False if they are not to be waited for any more.

    Args:
        timeout: seconds until they must.
        pause: called before each look; True ends the waiting.
        security: of the health checks.

    Raises:
        UnavailableError: a service has ended, did not become healthy in time, or listens and cannot be asked: a proxy
            or a certificate of another host are in the way.
    """
    deadline = time.monotonic() + timeout
    silent_since: dict[str, float] = {}
    with Client([one.address for one in services], retries=Retries(attempts=1), security=security) as client:
        while not pause():
            check_alive(services)
            health = client.health_details(timeout=_CHECK_SECONDS)
            waiting = [one for one in services if health[one.address].status is not HealthStatus.SERVING]
            if not waiting:
                return True
            for one in waiting:
                _check_reachable(one, health[one.address], silent_since)
            if time.monotonic() > deadline:
                names = " and the ".join(one.name for one in waiting)
                raise UnavailableError(f"the {names} did not become healthy within {timeout:g} seconds")
    return False


def check_alive(services: Sequence[Service]) -> None:
    """Raises UnavailableError if one of them has ended."""
    for service in services:
        if service.exit_code is not None:
            raise UnavailableError(f"the {service.name} ended with {describe_exit(service.exit_code)}")


def _check_reachable(service: Service, health: Health, silent_since: dict[str, float]) -> None:
    """Raise for a service that accepts connections and still does not answer."""
    if health.status is not HealthStatus.UNREACHABLE or not _listens(service.address):
        silent_since.pop(service.address, None)
        return
    silent = time.monotonic() - silent_since.setdefault(service.address, time.monotonic())
    if silent > _SILENCE_SECONDS:
        raise UnavailableError(f"the {service.name} is running, but cannot be asked how it is: {health.reason}")


def _listens(address: str) -> bool:
    try:
        socket.create_connection(split_host_port(address), timeout=_CHECK_SECONDS).close()
    except OSError:
        return False
    return True
