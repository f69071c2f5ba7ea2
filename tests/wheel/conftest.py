"""The environments, made once, and both services in theirs."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from visionsplit_client import Client, HealthStatus

from benchmarks.load.system import free_port
from tests.conftest import ROOT
from tests.wheel.environments import Environment, build_wheel, install_torch

MODEL = ROOT / "models" / "visionsplit-mini"
START_SECONDS = 120


@pytest.fixture(scope="session")
def workplace() -> Iterator[Path]:
    # Not tmp_path: pytest keeps that for three runs, and this is more than a gigabyte.
    with tempfile.TemporaryDirectory(prefix="visionsplit-wheel-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def wheel(workplace: Path) -> Path:
    return build_wheel(workplace / "dist")


@pytest.fixture(scope="session")
def sdk(workplace: Path, wheel: Path) -> Environment:
    return Environment.made(workplace / "sdk", wheel)


@pytest.fixture(scope="session")
def torch(workplace: Path) -> Path:
    return install_torch(workplace / "torch")


@pytest.fixture(scope="session")
def encoder(workplace: Path, wheel: Path, torch: Path) -> Environment:
    return Environment.made(workplace / "encoder", wheel, ["encoder"], torch)


@pytest.fixture(scope="session")
def llm(workplace: Path, wheel: Path, torch: Path) -> Environment:
    return Environment.made(workplace / "llm", wheel, ["llm"], torch)


@dataclass(frozen=True)
class Addresses:
    encoder: str
    llm: str


@pytest.fixture(scope="session")
def services(encoder: Environment, llm: Environment) -> Iterator[Addresses]:
    addresses = Addresses(f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}")
    with (
        running(llm, "visionsplit-llm", addresses.llm),
        running(encoder, "visionsplit-encoder", addresses.encoder, "--llm", addresses.llm),
    ):
        yield addresses


@contextmanager
def running(environment: Environment, program: str, address: str, *options: str) -> Iterator[None]:
    """A service, run by the program that the wheel installs."""
    command = [environment.program(program), "--model", MODEL, "--listen", address, "--device", "cpu", *options]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    log = environment.folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=environment.folder, env=variables, stdout=output, stderr=output)
    try:
        with Client(address) as client:
            started = time.monotonic()
            while client.health(timeout=1)[address] is not HealthStatus.SERVING:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() - started < START_SECONDS, log.read_text()
                time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(60)
