"""A client's errors for invalid addresses, and for addresses of another kind of service."""

import pytest
from visionsplit import errors
from visionsplit_cli import main
from visionsplit_client import AsyncClient, Client


@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_a_client_refuses_at_once(make):
    with pytest.raises(ValueError, match=r"'127\.0\.0\.1:99999'"):
        make(["127.0.0.1:50051", "127.0.0.1:99999"])
    with pytest.raises(ValueError, match="'http://host'"):
        make(llm="http://host")


@pytest.mark.parametrize("option", ["--encoder", "--llm"])
def test_the_tool_prints_one_line(option, image_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["caption", str(image_path), option, "http://127.0.0.1:50051"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'http://127.0.0.1:50051' is not an address of the form HOST:PORT" in line


@pytest.fixture
def swapped(services):
    return {"encoders": services.llm_address, "llm": services.encoder_address, "timeout": 20}


def test_another_service_at_the_address_is_named(services, swapped, image_path):
    with Client(**swapped) as client:
        with pytest.raises(errors.IncompatibleServicesError, match=f"{services.llm_address} is not an encoder service"):
            client.generate(image_path, "?")
        with pytest.raises(errors.IncompatibleServicesError, match=f"{services.llm_address} is not an encoder service"):
            client.encoder_info()
        with pytest.raises(errors.IncompatibleServicesError, match=f"{services.encoder_address} is not an LLM service"):
            client.llm_info()
        with Client(services.encoder_address) as right:
            tokens = right.encode(image_path)
        with pytest.raises(errors.IncompatibleServicesError, match=f"{services.encoder_address} is not an LLM service"):
            client.generate_from_tokens(tokens, "?")


async def test_another_service_is_named_on_an_event_loop_too(services, swapped, image_path):
    async with AsyncClient(**swapped) as client:
        with pytest.raises(errors.IncompatibleServicesError, match=f"{services.llm_address} is not an encoder service"):
            await client.generate(image_path, "?")
        async with AsyncClient(services.encoder_address) as right:
            tokens = await right.encode(image_path)
        with pytest.raises(errors.IncompatibleServicesError, match=f"{services.encoder_address} is not an LLM service"):
            await client.generate_from_tokens(tokens, "?")
