"""`visionsplit batch`, run as users run it: separate processes against real services."""

import asyncio
import datetime
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from PIL import Image

from tests.batch_kills import BatchRun, compare, make_images
from tests.integration.system import System, running_system

VISIONSPLIT = Path(sys.executable).parent / "visionsplit"
IMAGES = 30  # of which make_images breaks one


@pytest.fixture
def model(random_checkpoints: dict[str, Path]) -> Path:
    return random_checkpoints["llama"]


@pytest.fixture
async def system(model: Path) -> AsyncIterator[System]:
    async with running_system(model) as running:
        yield running


@pytest.fixture
def images(tmp_path: Path) -> Path:
    make_images(tmp_path / "images", IMAGES)
    return tmp_path / "images"


async def batch(*arguments: object) -> tuple[int, str, str]:
    """One command to its end: exit code, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        VISIONSPLIT,
        "batch",
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, problems = await process.communicate()
    assert process.returncode is not None
    assert "Traceback" not in problems.decode()
    return process.returncode, output.decode(), problems.decode()


def rows_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Answers by id, without their timings."""
    lines = [line for path in sorted(folder.glob("part-*.jsonl")) for line in path.read_text().splitlines()]
    rows = [json.loads(line) for line in lines]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: {key: value for key, value in row.items() if key != "timings"} for row in rows}


async def test_kills_at_random_moments_lose_and_double_nothing(model: Path, tmp_path: Path) -> None:
    assert await compare(model, tmp_path, images=200, kills=3, rows_per_file=30) == []


async def test_captions_by_both_ways_and_by_stored_tokens_are_the_same(
    system: System, model: Path, images: Path, tmp_path: Path
) -> None:
    asked = ["--prompt", "What is it?", "--prompt", "Which colour?", "--max-new-tokens", 4]
    kept = ["--method", "globalcom2", "--ratio", "0.4"]
    served = ["--encoder", system.encoder_address, "--llm", system.llm_address]

    code, output, _ = await batch("caption", images, "-o", tmp_path / "served", *asked, *kept, *served)
    assert code == 3  # one image is broken
    assert "29 rows in 1 part in" in output
    assert "1 row failed" in output
    code, _, problems = await batch("caption", images, "-o", tmp_path / "alone", *asked, *kept, "--model", model)
    assert code == 3
    gpus = torch.cuda.device_count()
    device = f"{min(gpus, 2) / 2:.2g} GPU each" if gpus else "on the CPU"
    assert f"starting 1 encoder ({device}) and 1 language model ({device}) for {model} on Ray" in problems
    code, _, _ = await batch("encode", images, "-o", tmp_path / "tokens", *kept, *served[:2], "--rows-per-file", 8)
    assert code == 3
    code, _, _ = await batch("ask", tmp_path / "tokens", "-o", tmp_path / "asked", *asked, *served[2:])
    assert code == 0

    rows = rows_in(tmp_path / "served")
    assert len(rows) == IMAGES - 1
    assert all(len(row["answers"]) == 2 for row in rows.values())
    for other in ("alone", "asked"):
        others = rows_in(tmp_path / other)
        assert {name: row["answers"] for name, row in others.items()} == {
            name: row["answers"] for name, row in rows.items()
        }
        assert [row["budgets"] for row in others.values()] == [row["budgets"] for row in rows.values()]
    assert (tmp_path / "tokens" / "errors.jsonl").read_text().count("InvalidImageError") == 1


async def test_a_mended_image_is_answered_by_a_retry(system: System, images: Path, tmp_path: Path) -> None:
    command = ["caption", images, "-o", tmp_path / "out", "--encoder", system.encoder_address, "--max-new-tokens", 2]
    code, output, problems = await batch(*command, "--json")
    assert code == 3
    summary = json.loads(output.splitlines()[-1])
    assert (summary["event"], summary["written"], summary["failed_rows"]) == ("summary", 29, 1)
    assert problems == ""
    (failed,) = [json.loads(line) for line in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()]
    assert failed["id"] == "000/00007.jpg"
    assert failed["stage"] == "encode"
    shutil.copyfile(images / "000" / "00008.jpg", images / failed["id"])

    code, output, _ = await batch(*command, "--retry-errors", "--quiet")
    assert (code, output) == (0, "")
    assert len(rows_in(tmp_path / "out")) == IMAGES
    assert not (tmp_path / "out" / "errors.jsonl").exists()


async def test_parquet_in_and_out_with_columns_and_templates(system: System, images: Path, tmp_path: Path) -> None:
    files = [images / f"000/0000{number}.jpg" for number in range(4)]
    table = pyarrow.table(
        {
            "name": [f"row {number}" for number in range(4)],
            "photo": [path.read_bytes() for path in files],
            "subject": ["cat", "dog", "sign", "tree"],
            "licence": ["CC0"] * 4,
            "taken": [datetime.datetime(2024, 1, 2, 3, 4, 5)] * 4,
            "mask": [b"\xff"] * 4,
            "score": [float("nan")] * 4,
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    code, _, problems = await batch(
        *("caption", tmp_path / "in.parquet", "-o", tmp_path / "out", "--output-format", "parquet"),
        *("--id-column", "name", "--column", "licence", "--column", "taken", "--column", "mask", "--column", "score"),
        *("--prompt", "Where is the {subject}?", "--encoder", system.encoder_address, "--max-new-tokens", 3),
    )
    assert code == 0, problems
    assert "input: 4 rows of the format parquet; columns: images from 'photo', ids from 'name'\n" in problems
    rows = pyarrow.parquet.read_table(tmp_path / "out" / "part-00000.parquet").to_pylist()
    assert [row["id"] for row in rows] == ["row 0", "row 1", "row 2", "row 3"]
    assert [row["answers"][0]["prompt"] for row in rows][1] == "Where is the dog?"
    fields = {"licence": "CC0", "taken": "2024-01-02T03:04:05", "mask": "/w==", "score": None}
    assert json.loads(rows[0]["fields"]) == fields
    async with asyncio.timeout(30):
        whole = await system.client.generate(files[0], "Where is the cat?", sampling=None)
    assert whole.text.startswith(rows[0]["answers"][0]["text"])


async def test_every_file_of_a_folder_is_a_row_or_named_and_the_same_command_goes_on(
    system: System, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("photo.jpg?size=2", "photo.jpg ", "noext", os.fsdecode(b"caf\xe9.jpg")):
        shutil.copyfile(images / "000" / "00001.jpg", folder / name)
    (folder / ".DS_Store").touch()
    command = ["caption", folder, "-o", folder / "captions", "--encoder", system.encoder_address, "--max-new-tokens", 2]
    code, _, problems = await batch(*command)
    assert code == 0, problems
    assert "left out of the input: 1 hidden or system file ('.DS_Store')" in problems
    (folder / "notes.md").write_text("words")
    code, output, problems = await batch(*command, "--quiet")
    assert (code, output) == (4, "")
    assert "1 file of another format ('notes.md'), 1 output of a batch job ('captions/')" in problems
    code, output, problems = await batch(*command, "--json")
    assert (code, problems) == (4, "")
    first, *_, last = map(json.loads, output.splitlines())
    assert (first["event"], first["format"], first["rows"]) == ("input", "files", 4)
    assert last["left_out"]["format"] == {"count": 1, "names": ["notes.md"]}
    assert rows_in(folder / "captions").keys() == {"photo.jpg?size=2", "photo.jpg ", "noext", "caf\\xe9.jpg"}


async def test_a_job_says_what_is_wrong_before_it_begins(system: System, images: Path, tmp_path: Path) -> None:
    out, encoder = tmp_path / "out", ("--encoder", system.encoder_address)
    code, _, problems = await batch("caption", tmp_path / "nowhere", "-o", out, *encoder)
    assert (code, problems) == (2, f"visionsplit: the input {tmp_path / 'nowhere'} does not exist\n")
    code, _, problems = await batch("caption", images, "-o", out, "--prune-ratio", 0.5, *encoder)
    assert code == 2
    assert "--prune-ratio needs --prune" in problems
    assert not out.exists()
    code, output, _ = await batch("caption", images, "-o", images, "--json", *encoder)
    assert (code, json.loads(output)["error"]) == (2, "InputError")
    code, _, problems = await batch("caption", images / "000", "-o", images.parent, *encoder)
    assert code == 3, problems  # a folder that has only folders in it is free
    shutil.rmtree(images.parent / "_run")
    code, _, problems = await batch("caption", images, "-o", images.parent, *encoder)
    assert code == 2
    assert "has files in it and is not the output of a run" in problems
    assert not (images.parent / "_run").exists()
    code, _, _ = await batch("caption", images, "-o", out, "--max-new-tokens", 2, "--quiet", *encoder)
    assert code == 3
    code, _, problems = await batch("caption", images, "-o", out, "--max-new-tokens", 3, "--quiet", *encoder)
    assert code == 2
    assert "sampling.max_new_tokens was 2, is 3" in problems


async def test_signals_stop_a_job_that_goes_on_later(system: System, images: Path, tmp_path: Path) -> None:
    for number in range(100):
        Image.new("RGB", (60, 40), (number % 256, number // 256, 0)).save(images / f"{number}.png")
    run = BatchRun(images, tmp_path / "out", ["--encoder", system.encoder_address, "--in-flight", "2", "--quiet"])
    run.command += ["--max-new-tokens", "40"]  # slowly enough to be stopped
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = await run.working()
        process.send_signal(number)
        _, problems = await process.communicate()
        assert process.returncode == code, problems
        assert "goes on from here" in problems.decode()
    assert (await run.finish())[0] == 3
    assert len(run.rows()) == IMAGES - 1 + 100
