"""Addresses that are accepted: by clients to connect to, by services to listen on."""

import pytest
from visionsplit.network.addresses import check_address, split_host_port
from visionsplit.telemetry.config import metrics_address


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1:50051", "encoder_1.local:1", "localhost:65535", "[::1]:50051"),
        *("unix:/run/encoder", "unix:///run/encoder", "dns:encoder:50051", "dns:///encoder:50051"),
    ],
)
def test_addresses_that_are_taken(address):
    check_address(address)


WRONG = [
    *("", "nonsense", "host:", ":50051", "127.0.0.1:99999", "127.0.0.1:0", "host:port", "host:1.5", "host: 80"),
    *("http://127.0.0.1:50051", "host:50051/path", "::1:50051", "[::1]", "[nonsense]:50051", "[::1:50051"),
    *("unix:", "dns:", "dns:host", "a b:50051", "host:٣"),
]


@pytest.mark.parametrize("address", WRONG)
def test_addresses_that_are_refused(address):
    with pytest.raises(ValueError, match="is not an address of the form HOST:PORT"):
        check_address(address)


def test_host_and_port():
    assert split_host_port("[::1]:7") == ("::1", 7)
    assert split_host_port("localhost:0") == ("localhost", 0)


def test_a_port_alone_for_metrics_means_loopback():
    assert metrics_address("9100") == ("127.0.0.1", 9100)
    assert metrics_address("[::1]:9100") == ("::1", 9100)
    assert metrics_address("0.0.0.0:0") == ("0.0.0.0", 0)


@pytest.mark.parametrize("address", ["", "99999", ":9100", "::1:9100", "host", "host name:9100", "[nonsense]:9100"])
def test_where_metrics_cannot_be_served(address):
    with pytest.raises(ValueError, match="HOST:PORT is needed, or PORT for loopback"):
        metrics_address(address)
