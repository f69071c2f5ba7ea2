"""The evaluation's model answers like a running system, and its command does what it documents."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from visionsplit_client import AsyncClient

from tests.integration.system import running_system
from training.dialogue.held_out import Example, held_out
from training.dialogue.questions import Topic
from training.evaluation.__main__ import main
from training.evaluation.conditions import parse_condition
from training.evaluation.in_process import InProcessModel, Settings
from training.evaluation.results import Answer, Run
from training.evaluation.system import RunningSystem

CONDITIONS = (
    "none",
    "globalcom2@0.25",
    "globalcom2:layout=reference,budget=uniform,score=local@0.5",
    "fastervlm:positions=original@0.25",
    "globalcom2:quotas=only@0.1+fastv:layer=1",
)
MAX_NEW_TOKENS = 16


def in_process(
    model: Path, examples: Sequence[Example], conditions: Sequence[str], *, batch: int = 16, workers: int = 0
) -> list[Answer]:
    settings = Settings(torch.device("cpu"), torch.float32, batch, workers, MAX_NEW_TOKENS)
    asked = [parse_condition(text) for text in conditions]
    return list(InProcessModel(str(model), asked, settings).answers(examples, lambda _: None))


async def through_services(
    client: AsyncClient, examples: Sequence[Example], conditions: Sequence[str], *, calls: int
) -> list[Answer]:
    system = RunningSystem(client, calls=calls, max_new_tokens=MAX_NEW_TOKENS)
    return await system.answers(examples, [parse_condition(text) for text in conditions], lambda _: None)


def ordered(answers: Sequence[Answer]) -> list[Answer]:
    return sorted(answers, key=lambda answer: (answer.condition, answer.image, answer.question))


@pytest.mark.parametrize("text", ["mistral", "shipped"])
async def test_it_answers_as_a_running_system(
    random_checkpoints: dict[str, Path], shipped_checkpoint: Path, text: str
) -> None:
    model = shipped_checkpoint if text == "shipped" else random_checkpoints[text]
    async with running_system(model) as system:
        tile = (await system.client.encoder_info()).tile_pixels
        examples = [held_out(number, tile) for number in range(5)]
        # One call at a time where the weights are random: their near ties fall by the rounding of a step's company.
        calls = 4 if text == "shipped" else 1
        theirs = await through_services(system.client, examples, CONDITIONS, calls=calls)
    ours = in_process(model, examples, CONDITIONS)
    assert ordered(ours) == ordered(theirs)
    assert len(ours) == len(CONDITIONS) * sum(len(example.questions) for example in examples)
    assert len({answer.answer for answer in ours}) > 10  # else equality says little


def test_answers_depend_neither_on_the_batch_nor_on_who_draws(random_checkpoints: dict[str, Path]) -> None:
    examples = [held_out(number, 56) for number in range(100, 104)]
    conditions = [*CONDITIONS, "thumbnail"]
    alone = in_process(random_checkpoints["llama"], examples, conditions, batch=1)
    together = in_process(random_checkpoints["llama"], examples, conditions, batch=1000, workers=1)
    assert ordered(alone) == ordered(together)


def test_the_thumbnail_alone_is_its_tokens_and_a_newline(random_checkpoints: dict[str, Path]) -> None:
    answers = in_process(random_checkpoints["llama"], [held_out(4, 56)], ["none", "thumbnail"])
    tokens = {answer.condition: answer.vision_tokens for answer in answers}
    assert tokens["thumbnail"] == 4 * 4 + 1
    assert tokens["none"] > 4 * tokens["thumbnail"]


def test_the_command_keeps_a_run_and_prints_it_again(
    random_checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, kept = str(random_checkpoints["llama"]), tmp_path / "kept"
    asked = ["--conditions", "none", "globalcom2@0.25", "--against", "globalcom2@0.25", "--device", "cpu"]
    assert main(["--model", model, "--images", "3", "--max-new-tokens", "8", "--out", str(kept), *asked]) == 0
    printed = capsys.readouterr().out
    assert "| globalcom2@0.25 |" in printed
    assert "Difference to globalcom2@0.25" in printed
    assert (kept / "report.md").read_text() == printed
    assert json.loads((kept / "summary.json").read_text())["images"] == 3
    run = Run.read(kept)
    assert {answer.image for answer in run.answers} == {0, 1, 2}
    assert {answer.topic for answer in run.answers} >= {Topic.CAPTION, Topic.EXIST}

    assert main(["--from", str(kept), "--against", "globalcom2@0.25"]) == 0
    assert capsys.readouterr().out == printed


async def test_the_command_scores_a_running_system(
    random_checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_system(random_checkpoints["llama"]) as system:
        arguments = ["--encoder", system.encoder_address, "--images", "2", "--max-new-tokens", "4"]
        assert await asyncio.to_thread(main, [*arguments, "--conditions", "none", "globalcom2@0.1"]) == 0
        assert await asyncio.to_thread(main, [*arguments, "--conditions", "thumbnail"]) == 1
        assert await asyncio.to_thread(main, [*arguments, "--conditions", "nonesuch@0.1"]) == 1
    printed = capsys.readouterr()
    assert "| globalcom2@0.1 |" in printed.out
    assert "score the model in process" in printed.err
    assert "unknown method 'nonesuch'" in printed.err


def test_a_condition_that_does_not_exist_is_named(
    random_checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", str(random_checkpoints["llama"]), "--images", "1", "--device", "cpu", "--conditions"]
    assert main([*arguments, "nonesuch@0.1"]) == 1
    assert "unknown method 'nonesuch'" in capsys.readouterr().err
    assert main([*arguments, "none", "--against", "globalcom2@0.1"]) == 1
    assert "not among the conditions" in capsys.readouterr().err
