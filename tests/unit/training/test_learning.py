"""Losses fall, and learning rates go up and down."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedTokenizerFast

from training.curves import draw
from training.data.batches import BatchConfig, Batches
from training.learning import shared_prefix
from training.learning.forward import answers, hidden_states
from training.learning.optimizers import LearningRates, Optimizers
from training.learning.targets import tower_targets
from training.learning.tower_loss import TowerHeads
from training.model.checkpoint import Architecture, new_model


def losses_on_one_batch(
    architecture: Architecture, tokenizer: PreTrainedTokenizerFast, steps: int
) -> Iterator[tuple[float, float]]:
    """The tower's loss and the answers', step by step."""
    shared_prefix.register()
    torch.manual_seed(0)
    model = new_model(architecture, tokenizer)
    model.model.language_model.config._attn_implementation = shared_prefix.NAME
    heads = TowerHeads(architecture.vision_width, architecture.side)
    inner = model.model
    other = nn.ModuleList([heads, inner.multi_modal_projector, model.lm_head])
    modules = {"vision": inner.vision_tower, "text": inner.language_model, "other": other}
    optimizers = Optimizers(modules, LearningRates(vision=5e-3, text=5e-3, other=5e-3))
    batch = Batches(architecture, tokenizer, BatchConfig(tiles=14), 10)[0]
    targets = tower_targets(batch, architecture)
    for step in range(steps):
        states = hidden_states(model, batch.tiles)
        tower, said = heads(states, targets).total(), answers(model, batch, states).loss()
        (tower + said).backward()
        optimizers.step(0.2 + step / (2 * steps))
        yield tower.item(), said.item()


def test_losses_fall_on_a_batch_seen_often(architecture: Architecture, tokenizer: PreTrainedTokenizerFast) -> None:
    losses = list(losses_on_one_batch(architecture, tokenizer, 25))
    (tower, said), (tower_last, said_last) = losses[0], losses[-1]
    assert tower_last < 0.7 * tower
    assert said_last < 0.5 * said


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4)])
        self.embedding = nn.Embedding(3, 4)


@pytest.fixture
def modules() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"vision": Small(), "text": Small(), "other": nn.Linear(4, 4)}


def moved(optimizers: Optimizers, modules: dict[str, nn.Module], progress: float) -> dict[str, float]:
    """How far each parameter goes in one step, with a gradient of ones."""
    parameters = {f"{name}.{path}": p for name, module in modules.items() for path, p in module.named_parameters()}
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizers.step(progress)
    return {name: (parameter - before[name]).abs().max().item() for name, parameter in parameters.items()}


def test_the_rate_rises_then_falls_to_nothing(modules: dict[str, nn.Module]) -> None:
    optimizers = Optimizers(modules, LearningRates(warmup=0.1))
    rates = []
    for progress in (0.0, 0.05, 0.1, 0.5, 0.9, 1.0, 1.5):
        moved(optimizers, modules, progress)
        rates.append([group["lr"] for group in (*optimizers.muon.param_groups, *optimizers.adamw.param_groups)])
    shares = [rate / 2e-3 for rate, _, _ in rates]
    assert shares == pytest.approx([0, 0.5 * 0.9938, 0.9755, 0.5, 0.0245, 0, 0], abs=1e-3)
    assert all(other == pytest.approx(vision / 2) for vision, _, other in rates)  # AdamW's peak is half as high


def test_every_parameter_moves_at_its_own_rate(modules: dict[str, nn.Module]) -> None:
    steps = moved(Optimizers(modules, LearningRates(vision=1e-2, text=0.0, other=1e-4)), modules, 0.02)
    assert steps["vision.layers.0.weight"] > 5e-4
    assert steps["text.layers.0.weight"] == 0
    outside = [name for name in steps if not name.endswith("layers.0.weight")]
    assert len(outside) == 6
    assert all(steps[name] == pytest.approx(1e-4, rel=0.1) for name in outside)


def test_optimizers_go_on_from_their_state(modules: dict[str, nn.Module]) -> None:
    optimizers, again = (Optimizers(modules, LearningRates()) for _ in range(2))
    moved(optimizers, modules, 0.3)
    again.load_state_dict(optimizers.state_dict())
    for mine, other in ((optimizers.muon, again.muon), (optimizers.adamw, again.adamw)):
        states = [list(optimizer.state_dict()["state"].values()) for optimizer in (mine, other)]
        assert states[0]
        for one, two in zip(*states, strict=True):
            assert all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(two[key])) for key in one)


def test_the_curves_show_every_stage(tmp_path: Path) -> None:
    losses = [
        {"stage": stage, "step": step, "progress": step / 3, "tile": 1 / step, "answers": 2 / step}
        for stage in ("tower", "joint")
        for step in (1, 2, 3)
    ]
    right = [{"stage": "joint", "step": step, "progress": step / 3, "right": {"what": 0.1 * step}} for step in (1, 3)]
    draw([*losses, *right], tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > image.height * 0.9
        assert len(set(image.convert("L").resize((40, 40)).tobytes())) > 10
