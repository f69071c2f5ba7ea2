"""Training runs, is interrupted, goes on, and ends with a checkpoint that the services serve."""

import json
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase
from visionsplit.families.checkpoint import Checkpoint
from visionsplit_client import Compression, Prompt, Sampling

from tests.integration.system import WholeModel, running_system
from training.__main__ import main, parser, stages
from training.data.batches import BatchConfig, Batches
from training.dialogue.held_out import held_out
from training.learning.optimizers import LearningRates
from training.learning.trainer import Stage, Trainer, TrainingConfig
from training.model.checkpoint import Architecture
from training.model.tokenizer import build_tokenizer
from training.scenes.render import render

ARCHITECTURE = Architecture(
    tile=56, vision_width=32, vision_layers=3, text_width=32, text_layers=2, text_hidden=64, heads=4
)
BATCH = BatchConfig(tiles=14, pairs=0.3, thumbnails_only=0.2, crops_only=0.2)
NO_LIMIT = float("inf")
TOWER = Stage("tower", 3, NO_LIMIT, answers=False, rates=LearningRates(), tower_weight=1.0, batch=BATCH)
JOINT = Stage("joint", 6, NO_LIMIT, answers=True, rates=LearningRates(), tower_weight=0.25, batch=BATCH)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer()


def config(run: Path, tokenizer: PreTrainedTokenizerBase, **changes: Any) -> TrainingConfig:
    """For a run whose tokenizer is there already; it saves after every step."""
    tokenizer.save_pretrained(run / "tokenizer")
    made = TrainingConfig(
        run=run,
        device=torch.device("cpu"),
        workers=0,
        compile=False,
        autocast=False,
        architecture=ARCHITECTURE,
        save_minutes=0.0,
        log_steps=1,
        validation_tiles=14,
        validation_batches=1,
    )
    return replace(made, **changes)


def losses_logged(run: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [entry for entry in entries if "right" not in entry]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def set_elapsed(run: Path, seconds: float) -> None:
    """Let the run's stage have taken so long."""
    state = torch.load(run / "state.pt", weights_only=True)
    torch.save({**state, "elapsed": seconds}, run / "state.pt")


class Killed(Exception):
    pass


class DoomedTrainer(Trainer):
    """Dies in its third validation, when a step is done that it has not saved."""

    _validations = 0

    def validate(self) -> dict[str, float]:
        self._validations += 1
        if self._validations == 3:
            raise Killed
        return super().validate()


def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    doomed = DoomedTrainer(config(tmp_path / "killed", tokenizer))
    doomed.run(TOWER)
    with pytest.raises(Killed):
        doomed.run(JOINT)
    set_elapsed(tmp_path / "killed", 1000.0)
    resumed = Trainer(config(tmp_path / "killed", tokenizer))
    resumed.run(TOWER)  # is over, and passed over
    resumed.run(JOINT)
    unbroken = Trainer(config(tmp_path / "unbroken", tokenizer))
    unbroken.run(TOWER)
    unbroken.run(JOINT)

    killed, whole = losses_logged(tmp_path / "killed"), losses_logged(tmp_path / "unbroken")
    assert [(entry["stage"], entry["step"]) for entry in whole] == [
        *[("tower", step) for step in (1, 2, 3)],
        *[("joint", step) for step in (1, 2, 3, 4, 5, 6)],
    ]
    assert [entry["step"] for entry in killed] == [1, 2, 3, 1, 2, 3, 3, 4, 5, 6]  # the third step was lost
    elapsed = [entry.pop("elapsed") for entry in killed]
    assert min(elapsed[6:]) >= 1000 > max(elapsed[:6])  # the time before counts
    for entry in [*killed, *whole]:
        entry.pop("elapsed", None)
        entry.pop("waited")
    assert killed[5] == killed[6]  # the same batch, the same losses
    assert killed[:5] + killed[6:] == whole
    batches = Batches(ARCHITECTURE, tokenizer, BATCH, 9)
    assert [entry["images"] for entry in whole] == list(accumulate(len(batches[number].tiles) for number in range(9)))
    theirs = weights(unbroken)
    for name, value in weights(resumed).items():
        assert torch.equal(value, theirs[name]), name


def test_the_state_is_plain_values(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    trainer = DoomedTrainer(config(tmp_path, tokenizer))
    with pytest.raises(Killed):
        trainer.run(JOINT)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert set(state) == {
        *("done", "seen", "batches", "stage", "step", "elapsed"),
        *("model", "heads", "optimizers"),
    }
    assert (state["done"], state["stage"], state["step"], state["batches"]) == ([], "joint", 2, 2)
    assert state["seen"] == losses_logged(tmp_path)[1]["images"]
    assert set(state["optimizers"]) == {"muon", "adamw"}


def test_a_stage_that_learns_to_answer_teaches_every_parameter(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    trainer = Trainer(config(tmp_path, tokenizer))
    before = weights(trainer)
    trainer.run(TOWER)
    between = weights(trainer)
    trainer.run(JOINT)
    after = weights(trainer)
    unmoved = {name for name, value in after.items() if torch.equal(value, between[name])}
    assert all("post_layernorm" in name for name in unmoved)  # of the tower; LLaVA-NeXT passes it by
    moved = {name for name, value in between.items() if not torch.equal(value, before[name])}
    assert any("vision_tower" in name for name in moved)
    other = {name for name in before if name.startswith(("lm_head", "model.multi_modal_projector"))}
    assert not moved & other


def test_a_run_begun_from_another_has_all_it_learnt_and_new_batches(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    first = Trainer(config(tmp_path / "first", tokenizer))
    first.run(TOWER)
    begun = Trainer(replace(config(tmp_path / "second", tokenizer), start=tmp_path / "first"))
    theirs = weights(first)
    assert all(torch.equal(value, theirs[name]) for name, value in weights(begun).items())
    heads = first.heads.state_dict()
    assert all(torch.equal(value, heads[name]) for name, value in begun.heads.state_dict().items())
    begun.run(TOWER)  # not passed over: another run's stages are none of this one's
    batches = Batches(ARCHITECTURE, tokenizer, BATCH, 6)
    expected = list(accumulate(len(batches[number].tiles) for number in range(6)))
    assert [entry["images"] for entry in losses_logged(tmp_path / "second")] == expected[3:]


def test_a_stage_ends_when_its_time_is_up(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(Killed):
        DoomedTrainer(config(tmp_path, tokenizer)).run(JOINT)
    set_elapsed(tmp_path, 601.0)
    Trainer(config(tmp_path, tokenizer)).run(replace(JOINT, minutes=10))
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert (state["done"], state["step"], state["optimizers"]) == (["joint"], 2, None)


async def test_the_services_serve_what_is_exported(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    trainer = Trainer(config(tmp_path / "run", tokenizer))
    trainer.run(JOINT)
    checkpoint = tmp_path / "model"
    trainer.export(checkpoint)
    whole = WholeModel(checkpoint)
    for name, value in weights(trainer).items():
        assert torch.equal(value.bfloat16().float(), whole.model.state_dict()[name]), name
    assert Checkpoint(checkpoint).config.vision_config.image_size == ARCHITECTURE.tile

    prompt = "<s>USER: <image>\nDescribe the image. ASSISTANT:"
    content = [{"type": "image"}, {"type": "text", "text": "Describe the image."}]
    asked = [{"role": "user", "content": content}]
    assert whole.processor.apply_chat_template(asked, add_generation_prompt=True) == prompt
    async with running_system(checkpoint) as system:
        for number in range(7):  # every grid
            image = render(held_out(number, ARCHITECTURE.tile).scene)
            answer = await system.client.generate(
                image, Prompt.raw(prompt), compression=Compression("none"), sampling=Sampling(max_new_tokens=8)
            )
            assert answer.token_ids == whole.generate([image], prompt, 8)
        chat = await system.client.generate(
            image, "Describe the image.", compression=Compression("none"), sampling=Sampling(max_new_tokens=8)
        )
        assert chat.token_ids == answer.token_ids


def test_the_command_trains_a_stage_and_exports(tmp_path: Path) -> None:
    """With the sizes of the model that ships."""
    places = ["--run", str(tmp_path / "run"), "--model", str(tmp_path / "model")]
    main(["tower", "--tower-steps", "2", "--tiles", "14", "--workers", "0", "--device", "cpu", *places])
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["done"] == ["tower"]
    assert not (tmp_path / "model").exists()
    main(["export", "--device", "cpu", *places])
    assert Checkpoint(tmp_path / "model").config.vision_config.image_size == Architecture().tile


def test_stages_share_the_time_by_their_steps() -> None:
    steps = ["--tower-steps", "100", "--joint-steps", "200", "--places-steps", "100"]
    asked = stages(parser().parse_args(["all", "--minutes", "40", *steps]))
    assert [(stage.name, stage.steps, stage.minutes) for stage in asked] == [
        ("tower", 100, 10),
        ("joint", 200, 20),
        ("places", 100, 10),
    ]
    assert [stage.answers for stage in asked] == [False, True, True]
    for name in ("tower", "joint", "places"):
        (stage,) = stages(parser().parse_args([name, "--minutes", "40"]))
        assert (stage.name, stage.minutes) == (name, 40)
    assert stages(parser().parse_args(["export"])) == []


def test_the_learning_rates_of_all_stages_are_scaled() -> None:
    whole, third = (stages(parser().parse_args(["all", "--rates", factor])) for factor in ("1", "0.3"))
    for stage, smaller in zip(whole, third, strict=True):
        for name in ("vision", "text", "other"):
            assert getattr(smaller.rates, name) == pytest.approx(0.3 * getattr(stage.rates, name))
        assert smaller.rates.warmup == stage.rates.warmup
