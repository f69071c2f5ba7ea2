"""`visionsplit up --backend ray` with a pool of encoders: the addresses stay as they were printed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from visionsplit_client import Client, HealthStatus, Sampling

from tests.noise import noise_image

VISIONSPLIT = Path(sys.executable).parent / "visionsplit"


def encoders(process: psutil.Process) -> list[psutil.Process]:
    """Ray names its workers after what they run."""
    children = process.children(recursive=True)
    return [one for one in children if one.cmdline() and one.cmdline()[0].startswith("ray::EncoderActor")]


def test_clients_go_on_while_an_encoder_is_started_again(random_checkpoints: dict[str, Path]):
    pytest.importorskip("ray")
    command = [VISIONSPLIT, "up", "--model", random_checkpoints["llama"], "--device", "cpu", "--quiet"]
    command += ["--backend", "ray", "--encoders", "1-2", "--replicas", "1-2"]
    command += ["--encoder", "127.0.0.1:0", "--llm", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            _, *addresses = [process.stdout.readline().rpartition(": ")[2].strip() for _ in range(3)]
            image, short = noise_image(112, 112), Sampling(max_new_tokens=4)
            with Client(addresses) as client:
                first = client.generate(image, "What?", sampling=short)
                (encoder,) = encoders(psutil.Process(process.pid))
                encoder.kill()
                deadline = time.monotonic() + 120
                while client.health()[addresses[0]] is not HealthStatus.SERVING:
                    assert time.monotonic() < deadline, "the encoder did not come back"
                    time.sleep(0.2)
                assert client.generate(image, "What?", sampling=short).token_ids == first.token_ids
            left = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
    assert not psutil.wait_procs(left, timeout=20)[1]
