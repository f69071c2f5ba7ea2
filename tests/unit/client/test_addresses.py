"""Which addresses are taken, and what a service of another kind behind one is called."""

import pytest
from visionsplit import errors
from visionsplit_client import AsyncClient, Client
from visionsplit_client._addresses import check_address, split_host_port
from visionsplit_client.cli import main


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
    with pytest.raises(ValueError, match="is no address of the form HOST:PORT"):
        check_address(address)


def test_host_and_port():
    assert split_host_port("[::1]:7") == ("::1", 7)
    assert split_host_port("localhost:0") == ("localhost", 0)


@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_a_client_refuses_at_once(make):
    with pytest.raises(ValueError, match=r"'127\.0\.0\.1:99999'"):
        make(["127.0.0.1:50051", "127.0.0.1:99999"])
    with pytest.raises(ValueError, match="'http://host'"):
        make(llm="http://host")


@pytest.mark.parametrize("option", ["--encoder", "--llm"])
def test_the_tool_prints_one_line(option, picture, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["caption", str(picture), option, "http://127.0.0.1:50051"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'http://127.0.0.1:50051' is no address of the form HOST:PORT" in line


@pytest.fixture
def swapped(services):
    return {"encoders": services.llm_address, "llm": services.encoder_address, "timeout": 20}


def test_another_service_at_the_address_is_named(services, swapped, picture):
    with Client(**swapped) as client:
        with pytest.raises(errors.IncompatibleServicesError, match=f"{services.llm_address} is not an encoder service"):
            client.generate(picture, "?")
        with pytest.raises(errors.IncompatibleServicesError, match=f"{services.llm_address} is not an encoder service"):
            client.encoder_info()
        with pytest.raises(errors.IncompatibleServicesError, match=f"{services.encoder_address} is not an LLM service"):
            client.llm_info()
        with Client(services.encoder_address) as right:
            tokens = right.encode(picture)
        with pytest.raises(errors.IncompatibleServicesError, match=f"{services.encoder_address} is not an LLM service"):
            client.generate_from_tokens(tokens, "?")


async def test_another_service_is_named_on_an_event_loop_too(services, swapped, picture):
    async with AsyncClient(**swapped) as client:
        with pytest.raises(errors.IncompatibleServicesError, match=f"{services.llm_address} is not an encoder service"):
            await client.generate(picture, "?")
        async with AsyncClient(services.encoder_address) as right:
            tokens = await right.encode(picture)
        with pytest.raises(errors.IncompatibleServicesError, match=f"{services.encoder_address} is not an LLM service"):
            await client.generate_from_tokens(tokens, "?")
