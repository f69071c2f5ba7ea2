"""The blocking client with services that are absent, or start later."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2_grpc
from visionsplit.security.tls import ServerTls
from visionsplit_cli.local_services.ports import free_addresses
from visionsplit_client import Client, ClientSecurity, ClientTls, HealthStatus, Retries, UnavailableError

from tests.certificates import Authority

_PATIENCE_SECONDS = 12.0  # below the 20 after which gRPC gives up a handshake that makes no progress


def test_services_that_come_later_are_found(tmp_path):
    authority = Authority(tmp_path)
    service = authority.issue("service")
    tls = ClientTls(authority.path)
    addresses = free_addresses(["127.0.0.1:0", "127.0.0.1:0"])
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    with Client(addresses, retries=Retries(attempts=1), security=ClientSecurity(tls)) as client:
        assert set(client.health(timeout=1).values()) == {HealthStatus.UNREACHABLE}
        for address in addresses:
            server.add_secure_port(address, ServerTls(service.certificate, service.key).credentials())
        server.start()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while set(client.health(timeout=1).values()) != {HealthStatus.SERVING}:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    server.stop(None).wait()


def test_a_client_that_waited_for_a_service_leaves_no_thread():
    """A thread of gRPC's that still watched a closed channel would end with an exception on stderr."""
    before = set(threading.enumerate())
    with Client("127.0.0.1:1", retries=Retries(attempts=2)) as client:
        assert client.health() == {"127.0.0.1:1": HealthStatus.UNREACHABLE}
        with pytest.raises(UnavailableError):
            client.encoder_info()
        assert set(threading.enumerate()) - before
    assert not set(threading.enumerate()) - before
