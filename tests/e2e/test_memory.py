"""Each half holds its own weights and none of the other's, measured on the processes that users start."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil
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


@dataclass(frozen=True)
class Memory:
    """What a service process holds, in bytes."""

    private: int  # while it serves
    peak: int  # since its start

    @classmethod
    def of(cls, module: str, checkpoint: Path) -> Self:
        with served(module, checkpoint) as process:
            (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
            return cls(process.memory_full_info().uss, int(peak) * 1024)


def weights_of(checkpoint: Path) -> int:
    return (checkpoint / "model.safetensors").stat().st_size


def test_a_half_never_holds_the_others_weights(tmp_path: Path) -> None:
    light = tiny_checkpoint(tmp_path / "light")
    text = tiny_checkpoint(tmp_path / "text", language=HEAVY_TEXT)
    vision = tiny_checkpoint(tmp_path / "vision", vision=HEAVY_VISION)
    more_text, more_vision = weights_of(text) - weights_of(light), weights_of(vision) - weights_of(light)
    assert min(more_text, more_vision) > 150 * MIB
    encoder, other_encoder = Memory.of("encoder_service", light), Memory.of("encoder_service", text)
    assert other_encoder.private - encoder.private < more_text / 5
    assert other_encoder.peak - encoder.peak < more_text / 5  # also while the encoder loads
    # The LLM service reads the encoder's weights once, for their fingerprint, so its peak says nothing.
    llm, other_llm = Memory.of("llm_service", light), Memory.of("llm_service", vision)
    assert other_llm.private - llm.private < more_vision / 5
    # The measure sees the weights that a half needs.
    assert Memory.of("encoder_service", vision).private - encoder.private > more_vision / 2
