"""`visionsplit plan`, run as users run it: in a separate process, with its own or with running services."""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import psutil
import pytest

from tests.integration.system import running_system
from tests.noise import noise_image

VISIONSPLIT = Path(sys.executable).parent / "visionsplit"
BRIEF = ("--seconds", "0.3", "--in-flight", "2", "--max-new-tokens", "4")


@pytest.fixture
def model(random_checkpoints: dict[str, Path]) -> Path:
    return random_checkpoints["llama"]


@pytest.fixture
def image_path(tmp_path: Path) -> Path:
    noise_image(112, 112).save(tmp_path / "image.png")
    return tmp_path / "image.png"


async def start(*arguments: object) -> Process:
    return await asyncio.create_subprocess_exec(
        VISIONSPLIT, "plan", *BRIEF, *map(str, arguments), stdout=PIPE, stderr=PIPE
    )


def services_of(model: Path) -> list[psutil.Process]:
    """Whatever runs with this checkpoint."""
    return [one for one in psutil.process_iter(["cmdline"]) if str(model) in (one.info["cmdline"] or ())]


async def test_its_own_services_are_measured_one_after_the_other_and_stopped(model: Path, image_path: Path) -> None:
    process = await start(image_path, "--model", model, "--ratios", "0.5,1", "--price-llm", 2, "--json")
    output, notes = await process.communicate()
    assert process.returncode == 0, notes.decode()
    assert services_of(model) == []
    steps = [line for line in notes.decode().splitlines() if line.startswith(("starting ", "measuring "))]
    assert steps == [
        "starting the encoder service",
        "measuring the encoder with 100% of the tokens",
        "measuring the encoder with 50% of the tokens",
        "starting the LLM service",
        "measuring the language model with 100% of the tokens",
        "measuring the language model with 50% of the tokens",
    ]
    document = json.loads(output)
    assert document["setting"]["machine"]
    assert document["prices"] == {"encoder": 2.0, "llm": 2.0}
    whole, half = document["ratios"]
    assert (whole["ratio"], whole["method"], half["ratio"], half["method"]) == (1.0, "none", 0.5, "globalcom2-diverse")
    assert half["measured"]["vision_tokens"] < whole["measured"]["vision_tokens"]
    for row in (whole, half):
        encoder, llm = row["measured"]["encoder"]["images_per_second"], row["measured"]["llm"]["images_per_second"]
        group = row["calculated"]["group"]
        assert group["images_per_second"] == pytest.approx(min(group["encoders"] * encoder, group["llms"] * llm))
        hours = (group["encoders"] + group["llms"]) * 1e6 / group["images_per_second"] / 3600
        assert group["cost_per_million"] == pytest.approx(2 * hours)


async def test_services_that_run_are_measured(model: Path, image_path: Path) -> None:
    async with running_system(model) as system:
        addresses = ["--encoder", system.encoder_address, "--llm", system.llm_address]
        process = await start(image_path, *addresses, "--ratios", 0.5, "--quiet")
        output, problems = await process.communicate()
        assert (process.returncode, problems) == (0, b"")
        text = output.decode()
        assert "running services" in text
        assert "Cheapest: keep 50%" in text

        process = await start(image_path, *addresses, "--method", "no-such", "--ratios", "1,0.5", "--quiet")
        output, problems = await process.communicate()
        assert (process.returncode, output) == (1, b"")
        assert problems.decode().startswith("visionsplit: unknown method 'no-such'; there are: ")


@pytest.mark.parametrize(
    ("number", "code", "moment"),
    [(signal.SIGINT, 130, b"measuring the encoder"), (signal.SIGTERM, 143, b"starting the encoder service")],
)
async def test_a_signal_stops_its_services_too(
    model: Path, image_path: Path, number: signal.Signals, code: int, moment: bytes
) -> None:
    process = await start(image_path, "--model", model, "--seconds", 60)
    assert process.stderr is not None
    await process.stderr.readuntil(moment)
    while len(services_of(model)) < 2:  # noqa: ASYNC110 - itself, and the encoder
        await asyncio.sleep(0.05)
    process.send_signal(number)
    output, problems = await process.communicate()
    assert (process.returncode, output) == (code, b"")
    assert b"Traceback" not in problems
    assert services_of(model) == []
