"""What callers see while parts of the system are killed, restarted or disconnected, in processes as users run them."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from visionsplit_client import AsyncClient, DeadlineError, Prompt, Retries, Sampling, UnavailableError, VisionSplitError

from benchmarks.load.system import Service, System
from tests.noise import noise_image

PROMPT = Prompt.raw("USER: <image>\nWhat? ASSISTANT:")
PATIENT = Retries(attempts=100)
HANGS = 300.0  # seconds; a call that takes longer, on a machine that is busy starting services, hangs
FEW = Sampling(max_new_tokens=8)


async def keep_asking(client: AsyncClient, stop: asyncio.Event) -> list[object]:
    """One caller that asks again and again; what came of each call."""
    outcomes: list[object] = []
    while not stop.is_set():
        try:
            answer = await client.generate(noise_image(112, 112), PROMPT, sampling=FEW)
            outcomes.append(answer.token_ids)
        except VisionSplitError as error:
            outcomes.append(error)
    return outcomes


@contextmanager
def system(model: Path) -> Iterator[System]:
    with System.of(str(model), encoders=2) as running:
        yield running


async def under_traffic(running: System, change) -> list[object]:
    """What three callers with both encoders' addresses got while `change` went on."""
    async with AsyncClient([one.address for one in running.encoders], retries=PATIENT, timeout=HANGS) as client:
        stop = asyncio.Event()
        callers = [asyncio.create_task(keep_asking(client, stop)) for _ in range(3)]
        await asyncio.sleep(0.5)
        await asyncio.to_thread(change)
        await asyncio.sleep(0.5)
        stop.set()
        return [outcome for caller in callers for outcome in await caller]


def restart(service: Service, number: int = signal.SIGTERM) -> None:
    status = service.stop(number)
    assert status == (0 if number == signal.SIGTERM else -number)
    service.start()
    print(f"{service.module} serves {service.wait_until_serving():.1f} s after its start")


async def test_restarts_lose_nothing_and_kills_only_what_had_begun(random_checkpoints: dict[str, Path]) -> None:
    with system(random_checkpoints["llama"]) as running:

        def roll_encoders() -> None:
            for encoder in running.encoders:
                restart(encoder)

        outcomes = await under_traffic(running, roll_encoders)
        answer = outcomes[0]
        assert isinstance(answer, tuple)
        assert set(map(repr, outcomes)) == {repr(answer)}

        # So does the LLM service: its answers end, and callers wait for its successor.
        outcomes = await under_traffic(running, lambda: restart(running.llm))
        assert set(map(repr, outcomes)) == {repr(answer)}

        # A killed encoder: text that had begun to arrive is not repeated; everything else is, elsewhere. It stays away.
        outcomes = await under_traffic(running, lambda: running.encoders[0].stop(signal.SIGKILL))
        errors = [outcome for outcome in outcomes if outcome != answer]
        assert all(isinstance(error, UnavailableError) for error in errors), errors
        assert len(errors) <= 3
        assert outcomes.count(answer) > 3

        # The same of a killed gateway, whose successor has its port.
        outcomes = await under_traffic(running, lambda: restart(running.llm, signal.SIGKILL))
        errors = [outcome for outcome in outcomes if outcome != answer]
        assert all(isinstance(error, UnavailableError) for error in errors), errors
        assert len(errors) <= 3


@pytest.fixture
def cable(tmp_path: Path):
    """A network namespace with this machine at 10.213.7.1; returns a function that disconnects or connects it."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("a network namespace needs root and iproute2")
    name = f"visionsplit-{os.getpid()}"
    outside, inside = f"vso{os.getpid()}"[:15], f"vsi{os.getpid()}"[:15]

    def ip(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["ip", *arguments], capture_output=True, check=False)

    if (
        ip("netns", "add", name).returncode
        or ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", name).returncode
    ):
        ip("netns", "del", name)
        pytest.skip("this machine allows no network namespaces")
    ip("addr", "add", "10.213.7.1/30", "dev", outside)
    ip("link", "set", outside, "up")
    for command in (("addr", "add", "10.213.7.2/30", "dev", inside), ("link", "set", inside, "up")):
        ip("-n", name, *command)
    ip("-n", name, "link", "set", "lo", "up")
    yield name, lambda *, cut: ip("link", "set", outside, "down" if cut else "up")
    ip("netns", "del", name)
    ip("link", "del", outside)


def llm_in(namespace: str, model: str, address: str) -> subprocess.Popen[bytes]:
    command = ["ip", "netns", "exec", namespace, sys.executable, "-m", "llm_service", "--model", model]
    return subprocess.Popen([*command, "--listen", address, "--device", "cpu"], stderr=subprocess.DEVNULL)


async def test_a_cut_between_the_halves_is_a_status_and_heals(random_checkpoints: dict[str, Path], cable) -> None:
    namespace, switch = cable
    model = str(random_checkpoints["llama"])
    llm = llm_in(namespace, model, "10.213.7.2:50852")
    encoder = Service("encoder_service", ["--model", model, "--llm", "10.213.7.2:50852"], "127.0.0.1:50853")
    encoder.start()
    try:
        encoder.wait_until_serving()
        async with AsyncClient(encoder.address, retries=PATIENT, timeout=HANGS) as client:
            answer = (await client.generate(noise_image(112, 112), PROMPT, sampling=FEW)).token_ids
            switch(cut=True)
            with pytest.raises((DeadlineError, UnavailableError)):
                await client.generate(noise_image(112, 112), PROMPT, sampling=FEW, timeout=2)
            assert (await client.encode(noise_image(112, 112))).tokens.num_tokens  # the encoder itself is well
            switch(cut=False)
            joined = time.monotonic()
            assert (await client.generate(noise_image(112, 112), PROMPT, sampling=FEW)).token_ids == answer
            print(f"answers again {time.monotonic() - joined:.1f} s after the cable was joined")
    finally:
        encoder.stop()
        llm.terminate()
        llm.wait(60)
