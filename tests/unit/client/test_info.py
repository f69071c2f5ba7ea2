"""`visionsplit info` with one or both services running."""

import json
import socket
import subprocess
import sys

import pytest
from visionsplit_cli import info, main
from visionsplit_client._info import NamedChoice


@pytest.fixture
def nobody():
    """An address where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def test_both(where, services, capsys):
    assert main(["info", *where]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[:2] == [
        f"encoder service  {services.encoder_address}  serving",
        f"LLM service      {services.llm_address}  serving",
    ]
    assert "globalcom2 tau=10" in out
    assert "pruning methods\n    fastv layer=2: Drops." in out
    assert "scores" not in out
    assert main(["info", "--parts", *where]) == 0
    assert "scores" in capsys.readouterr().out


def test_parameters_are_listed_by_name(capsys):
    choice = NamedChoice("pyramid", "Drops.", {"share_2": 0.25, "depth_1": 0.25, "share_1": 0.5})
    info._print_choices("pruning methods", [choice])
    assert "pyramid depth_1=0.25 share_1=0.5 share_2=0.25: Drops." in capsys.readouterr().out


def test_json(where, services, capsys):
    assert main(["info", "--json", *where]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (
        document["encoder"]["default_compression"] | {"method": "none", "retention_ratio": None}
        == (document["encoder"]["default_compression"])
    )
    assert document["llm"]["pruning_methods"] == [
        {"name": "fastv", "description": "Drops.", "parameters": {"layer": 2.0}}
    ]
    assert document["services"][1] == {"service": "LLM service", "address": services.llm_address, "health": "serving"}


def test_the_encoder_alone_is_a_whole_deployment(services, nobody, capsys):
    assert main(["info", "--encoder", services.encoder_address, "--llm", nobody]) == 0
    out, err = capsys.readouterr()
    assert f"LLM service      {nobody}  unreachable" in out
    assert "globalcom2" in out
    assert err == ""


def test_no_encoder_is_a_failure(services, nobody, capsys):
    assert main(["info", "--encoder", nobody, "--llm", services.llm_address]) == 1
    out, err = capsys.readouterr()
    assert f"encoder service  {nobody}  unreachable" in out
    assert "context of 2048 tokens" in out
    reason, summary = err.splitlines()
    assert reason.startswith(f"visionsplit: the service at {nobody} cannot be reached: ")
    assert summary == "visionsplit: no encoder service can be reached; to start the services here, run: visionsplit up"


def test_swapped_addresses_are_named(services, capsys):
    assert main(["info", "--encoder", services.llm_address, "--llm", services.encoder_address]) == 1
    err = capsys.readouterr().err
    assert f"{services.llm_address} is not an encoder service" in err
    assert f"{services.encoder_address} is not an LLM service" in err


def test_a_process_ends_that_does_not_close_a_client_which_found_no_service():
    script = """
import visionsplit_client as v
client = v.Client("127.0.0.1:1", retries=v.Retries(attempts=1))
try:
    client.encoder_info()
except v.UnreachableError:
    print("unreachable")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "unreachable\n"), done.stderr
