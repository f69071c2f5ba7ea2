"""Each half holds its own weights and none of the other's, measured on the processes that users start."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from visionsplit_client import Client, HealthStatus

from benchmarks.load.system import free_port
from tests.checkpoints import tiny_checkpoint

MIB = 2**20
HEAVY_TEXT = {
    "hidden_size": 512,
    "intermediate_size": 4096,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "head_dim": 64,
}
HEAVY_VISION = {"hidden_size": 512, "intermediate_size": 4096, "num_hidden_layers": 10, "num_attention_heads": 8}


@contextmanager
def served(module: str, checkpoint: Path) -> Iterator[psutil.Process]:
    """A service process that is up."""
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--model", checkpoint, "--listen", address, "--device", "cpu"]
    )
    try:
        deadline = time.monotonic() + 60
        with Client(address) as client:
            while client.health(timeout=1)[address] is not HealthStatus.SERVING:
                assert process.poll() is None, "the service ended"
                assert time.monotonic() < deadline, "the service did not come up"
                time.sleep(0.2)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        assert process.wait(timeout=60) == 0


def private_bytes(module: str, checkpoint: Path) -> int:
    with served(module, checkpoint) as process:
        return int(process.memory_full_info().uss)


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("light"))


def weights_of(checkpoint: Path) -> int:
    return (checkpoint / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("own", "other"), [("encoder_service", {"language": HEAVY_TEXT}), ("llm_service", {"vision": HEAVY_VISION})]
)
def test_a_half_does_not_hold_the_others_weights(own: str, other: dict, light: Path, tmp_path: Path) -> None:
    heavy = tiny_checkpoint(tmp_path / "heavy", **other)
    added = weights_of(heavy) - weights_of(light)
    assert added > 150 * MIB
    grown = private_bytes(own, heavy) - private_bytes(own, light)
    assert grown < added / 5, f"{grown / MIB:.0f} MiB more for {added / MIB:.0f} MiB of weights that are not its own"


def test_the_measure_sees_a_halfs_own_weights(light: Path, tmp_path: Path) -> None:
    heavy = tiny_checkpoint(tmp_path / "heavy", vision=HEAVY_VISION)
    added = weights_of(heavy) - weights_of(light)
    assert private_bytes("encoder_service", heavy) - private_bytes("encoder_service", light) > added / 2
