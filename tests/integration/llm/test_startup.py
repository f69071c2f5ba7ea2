"""Whatever keeps the service from starting is reported in one line, with exit status 1."""

import asyncio
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.integration.llm.support import Whole


async def run(*options: str) -> tuple[int, list[str]]:
    """Exit status and lines of stderr of the service's process."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "llm_service", "--listen", "127.0.0.1:0", *options), stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(60):
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, errors.decode().splitlines()


def said(outcome: tuple[int, list[str]], *words: str) -> None:
    status, lines = outcome
    assert status == 1, lines
    assert not [line for line in lines if "Traceback" in line]
    assert " ERROR llm_service: cannot serve: " in lines[-1]
    for word in words:
        assert word in lines[-1]


async def test_a_device_that_is_not_there(llama: Whole):
    said(await run("--model", str(llama.path), "--device", "cuda:77"), "cuda:77")


async def test_an_address_in_use(llama: Whole):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        said(await run("--model", str(llama.path), "--device", "cpu", "--listen", address), address)


async def test_no_checkpoint(tmp_path: Path):
    said(await run("--model", str(tmp_path)), tmp_path.name)


async def test_no_tokenizer(llama: Whole, tmp_path: Path):
    folder = tmp_path / "headless"
    shutil.copytree(llama.path, folder, ignore=shutil.ignore_patterns("tokenizer*"))
    said(await run("--model", str(folder), "--device", "cpu"), "headless", "tokenizer")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_while_loading_ends_the_process_at_once(llama: Whole, number: signal.Signals):
    """The signal comes when the handlers are there and the service is not yet ready."""
    code = (
        "import asyncio, os, sys\n"
        "import llm_service.server as server\n"
        "from llm_service.__main__ import main\n"
        "make = server.make_backend\n"
        f"server.make_backend = lambda config: (os.kill(os.getpid(), {int(number)}), make(config))[1]\n"
        f"sys.argv = ['llm_service', '--model', {str(llama.path)!r}, '--listen', '127.0.0.1:0', '--device', 'cpu']\n"
        "sys.exit(main())\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        _, errors = await process.communicate()
    assert process.returncode == 128 + number
    assert "told to stop while starting" in errors.decode()
    assert "Traceback" not in errors.decode()
