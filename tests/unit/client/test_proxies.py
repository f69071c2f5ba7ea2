"""Environments that name an HTTP proxy: this machine is never reached through it, and errors behind it say so."""

import pytest
from visionsplit.network.proxies import grpc_proxy, web_proxy
from visionsplit_cli import main
from visionsplit_client import AsyncClient, Client, DeadlineError, HealthStatus, Retries, UnreachableError

from tests.proxies import VARIABLES, running_proxy

ELSEWHERE = "service.invalid:50051"  # a name that no resolver knows


@pytest.fixture
def proxy(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with running_proxy() as proxy:
        for name, value in proxy.environment().items():
            monkeypatch.setenv(name, value)
        yield proxy


def test_this_machine_is_reached_directly(proxy, services, image_path, where, capsys):
    with Client(services.encoder_address, llm=services.llm_address) as client:
        assert set(client.health().values()) == {HealthStatus.SERVING}
        assert client.generate(image_path, "?").text
        assert client.generate_from_tokens(client.encode(image_path), "?").text
    localhost = f"localhost:{services.encoder_address.rpartition(':')[2]}"
    for command in (
        ["health", services.encoder_address],
        ["health", localhost],
        ["caption", str(image_path), *where],
        ["info", *where],
    ):
        assert main(command) == 0, capsys.readouterr().err
    assert proxy.requests == []


async def test_this_machine_is_reached_directly_on_an_event_loop(proxy, services, image_path):
    async with AsyncClient(services.encoder_address) as client:
        assert (await client.generate(image_path, "?")).text
    assert proxy.requests == []


def test_errors_behind_a_proxy_say_so(proxy, image_path, capsys):
    hint = f"through the proxy {proxy.address}, which grpc_proxy names; add service.invalid to no_proxy"
    with Client(ELSEWHERE, retries=Retries(attempts=1)) as client, pytest.raises(UnreachableError, match=hint):
        client.generate(image_path, "?")
    assert set(proxy.requests) == {f"CONNECT {ELSEWHERE} HTTP/1.1"}
    assert main(["health", ELSEWHERE]) == 1
    out, err = capsys.readouterr()
    assert out == "unreachable\n"
    assert hint in err
    assert "secret-word" not in err


def test_a_proxy_that_never_answers_is_named_too(proxy, image_path):
    proxy.answer = b""
    named = pytest.raises((UnreachableError, DeadlineError), match=f"through the proxy {proxy.address}")
    with Client(ELSEWHERE, retries=Retries(attempts=1), timeout=1) as client, named:
        client.generate(image_path, "?")


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.9.9.9", "127.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]"),
        *("localhost", "LocalHost", "encoder.localhost", "localhost.", "ip6-localhost"),
    ],
)
def test_hosts_that_are_this_machine(proxy, host):
    assert grpc_proxy(f"{host}:50051") is None
    assert web_proxy("http", host.strip("[]"), 80) is None


def test_other_spellings_of_an_address(proxy):
    for address in ("dns:localhost:1", "dns:///127.0.0.1:1", "unix:/run/encoder", "unix:///run/encoder"):
        assert grpc_proxy(address) is None
    assert grpc_proxy("dns:///service.invalid:1") is not None


@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
    [
        ("*", "service.invalid", True),
        ("localhost, *", "service.invalid", True),
        ("*.invalid", "service.invalid", True),
        ("[2001:db8::7]:50051", "[2001:db8::7]", True),
        ("[2001:db8::7]:1", "[2001:db8::7]", False),
        ("other.invalid, service.invalid", "service.invalid", True),
        (".invalid", "service.invalid", True),
        ("invalid", "service.invalid", True),
        ("service.invalid:50051", "service.invalid", True),
        ("service.invalid:1", "service.invalid", False),
        ("vice.invalid", "service.invalid", False),
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.0/24", "192.0.2.7", True),
        ("192.0.2.0/24", "192.0.3.7", False),
        ("2001:db8::/32", "[2001:db8::7]", True),
        ("[2001:db8::7]", "[2001:db8::7]", True),
        ("", "192.0.2.7", False),
    ],
)
def test_no_proxy(proxy, monkeypatch, no_proxy, host, direct):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, no_proxy)
        assert (grpc_proxy(f"{host}:50051") is None) is direct
        assert (web_proxy("https", host.strip("[]"), 50051) is None) is direct
        monkeypatch.delenv(name)
    monkeypatch.setenv("no_grpc_proxy", no_proxy)
    assert (grpc_proxy(f"{host}:50051") is None) is direct


def test_which_variable_names_the_proxy(proxy, monkeypatch):
    names = []
    for variable in ("grpc_proxy", "https_proxy", "http_proxy"):
        named = grpc_proxy("service.invalid:1")
        assert named is not None
        names.append(named.setting)
        monkeypatch.delenv(variable)
    assert names == ["grpc_proxy", "https_proxy", "http_proxy"]
    assert grpc_proxy("service.invalid:1") is None  # gRPC does not read the names in capitals, and HTTP clients do
    https = web_proxy("https", "service.invalid", 443)
    assert https is not None
    assert (https.location, web_proxy("http", "service.invalid", 80)) == (proxy.address, None)
    monkeypatch.setenv("all_proxy", "proxy.invalid:3128")
    anything = web_proxy("http", "service.invalid", 80)
    assert anything is not None
    assert (anything.url, anything.setting) == ("http://proxy.invalid:3128", "all_proxy")
