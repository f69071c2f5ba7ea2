"""Whatever keeps the service from starting is reported in one line, with exit status 1."""

import asyncio
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_service.__main__ import main
from tests.integration.llm.support import Whole


async def test_what_keeps_the_process_from_serving_is_its_last_line(llama: Whole) -> None:
    command = [sys.executable, "-m", "llm_service", "--model", str(llama.path), "--device", "cuda:77"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        _, errors = await process.communicate()
    lines = errors.decode().splitlines()
    assert process.returncode == 1, lines
    assert not [line for line in lines if "Traceback" in line]
    assert " ERROR llm_service: cannot serve: " in lines[-1]
    assert "cuda:77" in lines[-1]


@pytest.fixture
def refused(caplog: pytest.LogCaptureFixture, service_log_levels: None) -> Callable[..., str]:
    """The line that says why a service with these options does not start; in this process, to save the imports."""

    def start(*options: str) -> str:
        assert main(["--listen", "127.0.0.1:0", "--device", "cpu", *options]) == 1
        (line,) = [record for record in caplog.records if record.name == "llm_service"]
        assert line.exc_info is None
        return line.getMessage()

    return start


def test_an_address_in_use(llama: Whole, refused: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        assert f"cannot serve: cannot listen on {address}" in refused("--model", str(llama.path), "--listen", address)


def test_an_engine_that_is_not_installed(llama: Whole, refused: Callable[..., str]) -> None:
    assert "visionsplit[vllm]" in refused("--model", str(llama.path), "--engine", "vllm")


def test_no_checkpoint(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert tmp_path.name in refused("--model", str(tmp_path))


def test_no_tokenizer(llama: Whole, tmp_path: Path, refused: Callable[..., str]) -> None:
    folder = tmp_path / "headless"
    shutil.copytree(llama.path, folder, ignore=shutil.ignore_patterns("tokenizer*"))
    line = refused("--model", str(folder))
    assert "headless" in line
    assert "tokenizer" in line


async def test_a_signal_while_loading_ends_the_process_at_once(llama: Whole):
    """The signal comes when the handlers are there and the service is not yet ready."""
    code = (
        "import asyncio, os, sys\n"
        "import llm_service.server as server\n"
        "from llm_service.__main__ import main\n"
        "make = server.make_backend\n"
        f"server.make_backend = lambda *how: (os.kill(os.getpid(), {int(signal.SIGINT)}), make(*how))[1]\n"
        f"sys.argv = ['llm_service', '--model', {str(llama.path)!r}, '--listen', '127.0.0.1:0', '--device', 'cpu']\n"
        "sys.exit(main())\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        _, errors = await process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert "told to stop while starting" in errors.decode()
    assert "Traceback" not in errors.decode()
