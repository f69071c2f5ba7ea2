"""`visionsplit health`, which containers use as their health check."""

import pytest
from visionsplit_cli import main


def test_a_service_that_takes_calls_is_healthy(services, capsys):
    for address in (services.encoder_address, services.llm_address):
        assert main(["health", address]) == 0
        assert capsys.readouterr().out == "serving\n"


def test_a_service_that_is_not_there_is_not_healthy(capsys):
    assert main(["health", "127.0.0.1:1", "--timeout", "1"]) == 1
    assert capsys.readouterr().out == "unreachable\n"


def test_a_wrong_address_is_a_wrong_usage(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["health", "nowhere"])
    assert ended.value.code == 2
    assert "'nowhere' is not an address" in capsys.readouterr().err
