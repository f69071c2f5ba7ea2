"""Security as an operator sets it up: options, files, processes."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.certificates import Authority

TOKEN = "a-token-for-everybody-here"


def command(*arguments: object) -> list[str]:
    return [sys.executable, *map(str, arguments)]


def tool(*arguments: object) -> list[str]:
    return command("-c", "import sys, visionsplit_cli as c; sys.exit(c.main())", *arguments)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with an authority, a certificate for 127.0.0.1 and a token file."""
    Authority(tmp_path).issue("service")
    (tmp_path / "tokens").write_text(f"# everybody's\n{TOKEN}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("service", "options", "reason"),
    [
        ("encoder_service", ["--tls-cert", "service.pem", "--tls-key", "gone"], "the key gone cannot be read"),
        ("llm_service", ["--token-file", "service.key"], "line 1 of service.key: invalid line"),
    ],
)
def test_a_service_that_cannot_be_protected_says_why_and_ends(
    service: str, options: list[str], reason: str, files: Path, random_checkpoints: dict[str, Path]
) -> None:
    model = ["--model", str(random_checkpoints["llama"]), "--listen", "127.0.0.1:0"]
    ended = subprocess.run(command("-m", service, *model, *options), cwd=files, capture_output=True, text=True)
    assert ended.returncode == 1
    assert reason in ended.stderr
    assert not any(secret in ended.stderr for secret in ("Traceback", "PRIVATE"))


def test_up_passes_security_on_to_both_services(files: Path, random_checkpoints: dict[str, Path]) -> None:
    """mTLS and tokens between up, the two services and the tool, without the token in any process's arguments."""
    tls = ["--tls-cert", files / "service.pem", "--tls-key", files / "service.key", "--tls-ca", files / "authority.pem"]
    where = ["--encoder", "127.0.0.1:0", "--llm", "127.0.0.1:0", "--model", random_checkpoints["llama"]]
    token = ["--token-file", files / "tokens"]
    up = subprocess.Popen(
        tool("up", *where, *tls, *token, "--tls-client-ca", files / "authority.pem", "--device", "cpu"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert up.stdout is not None
        assert up.stderr is not None
        llm, encoder = (re.search(r"127\.0\.0\.1:\d+", up.stdout.readline() or up.stderr.read())[0] for _ in "12")
        asked = tool("ask", "--encoder", encoder, "--llm", llm, "--max-new-tokens", 2, "--timeout", 60, *tls, "Why?")
        with_token = os.environ | {"VISIONSPLIT_TOKEN": TOKEN}
        calls = [
            subprocess.Popen(asked, env=with_token, stderr=subprocess.PIPE, text=True),
            subprocess.Popen(asked, stderr=subprocess.PIPE, text=True),
        ]
        errors = [call.communicate(timeout=120)[1] for call in calls]
        assert [call.returncode for call in calls] == [0, 1], errors
        assert "a valid token is needed" in errors[1]
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                assert TOKEN.encode() not in (process / "cmdline").read_bytes()
    finally:
        up.send_signal(signal.SIGINT)
        _, log = up.communicate(timeout=60)
    assert up.returncode == 0
    assert TOKEN not in log
