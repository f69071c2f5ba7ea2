"""The demo and the README's code, run as a newcomer runs them."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
from PIL import Image

from tests.conftest import ROOT
from tests.integration.system import running_system
from training.dialogue.captions import item_f1, mentions_in, parse_caption
from training.make_samples import SAMPLES


def test_the_demo_captions_the_samples_and_leaves_nothing_behind(tmp_path: Path) -> None:
    environment = {**os.environ, "VISIONSPLIT": str(Path(sys.executable).parent / "visionsplit"), "OUT": str(tmp_path)}
    demo = subprocess.Popen(
        [ROOT / "scripts" / "demo.sh"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    output, problems = demo.communicate(timeout=240)
    assert demo.returncode == 0, problems
    captions = re.findall(r"models/samples/(\w+)\.png\n +(.+)\n", output)
    assert [name for name, _ in captions] == 2 * [sample.name for sample in SAMPLES]
    whole, quarter = captions[: len(SAMPLES)], captions[len(SAMPLES) :]
    assert items_right(whole, places=True) > 0.75
    assert items_right(quarter, places=False) > 0.5
    truths = re.findall(r"the image shows: (.+)\n", output)
    assert len(truths) == 2 * len(SAMPLES)
    assert "a house labelled RM4" in truths[-1]
    assert "5 images: 4104 vision tokens, " in output
    kept = re.search(r"5 images: 4104 -> (\d+) vision tokens \(75% less\)", output)
    # A quarter, less what each crop's share loses when it is rounded down, which the weights decide.
    assert kept is not None
    assert 0.24 * 4104 < int(kept[1]) <= 0.25 * 4104
    assert "LUNCH" in output.rpartition("What does the orange sign read?")[2].splitlines()[1]
    assert "yes" in output.rpartition("Is there a rocket?")[2].splitlines()[1]
    assert "no" in output.rpartition("Is there a cat?")[2].splitlines()[1]
    with Image.open(tmp_path / "kept-tokens.png") as image:
        assert image.width > 1000
    assert "Traceback" not in problems
    assert not processes_with("OUT", str(tmp_path))


def items_right(captions: list[tuple[str, str]], *, places: bool) -> float:
    """Mean item F1 of captions of the samples."""
    scenes = {sample.name: sample.scene() for sample in SAMPLES}
    scores = [item_f1(mentions_in(scenes[name]), parse_caption(text), places=places) for name, text in captions]
    return sum(scores) / len(scores)


def processes_with(variable: str, value: str) -> list[psutil.Process]:
    """Those that have it in their environment, which processes hand down."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get(variable) == value:
                found.append(process)
    return found


async def test_the_readmes_code_runs(shipped_checkpoint: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    async with running_system(shipped_checkpoint) as system:
        code = code.replace("127.0.0.1:50051", system.encoder_address).replace("127.0.0.1:50052", system.llm_address)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        output, problems = await process.communicate()
    assert process.returncode == 0, problems.decode()
    lines = output.decode().splitlines()
    assert "a green sign that reads OFFICE" in lines[0].replace("A ", "a ")
    assert "of 576 tokens" in lines[0]
    assert lines[1:] == ["LUNCH", "yes"]
