"""Runs a stage of training: from where it stopped to its end, with a log, a progress bar and a state to resume from."""

import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from training.data.batches import Batch, BatchConfig, Batches
from training.data.prompts import TOPICS
from training.learning import shared_prefix
from training.learning.forward import answers, hidden_states
from training.learning.optimizers import LearningRates, Optimizers
from training.learning.targets import tower_targets
from training.learning.tower_loss import TowerHeads
from training.model.checkpoint import Architecture, new_model, save_checkpoint
from training.model.tokenizer import build_tokenizer


@dataclass(frozen=True)
class Stage:
    """A part of training with a learning rate schedule of its own."""

    name: str
    steps: int
    minutes: float  # the schedule ends after so many minutes if that is sooner than `steps`
    answers: bool  # whether the language model learns too
    rates: LearningRates
    tower_weight: float  # of the tower's losses beside that of the answers


@dataclass(frozen=True)
class TrainingConfig:
    """What all stages share."""

    run: Path  # folder of the state and the log
    device: torch.device
    workers: int
    compile: bool
    batch: BatchConfig
    architecture: Architecture
    save_minutes: float = 5.0
    log_steps: int = 20
    validations: int = 12  # in each stage
    validation_batches: int = 4


class Trainer:
    """The model in training, and the run's folder."""

    def __init__(self, config: TrainingConfig) -> None:
        """Make a new model, or take up the run's own where it has one."""
        torch.manual_seed(0)
        shared_prefix.register()
        torch.backends.cuda.matmul.allow_tf32 = True
        self._config = config
        self.tokenizer = build_tokenizer()
        self.model = new_model(config.architecture, self.tokenizer)
        self.model.model.language_model.config._attn_implementation = shared_prefix.NAME
        self.heads = TowerHeads(config.architecture.vision_width)
        config.run.mkdir(parents=True, exist_ok=True)
        self._state_file, self._log_file = config.run / "state.pt", config.run / "log.jsonl"
        self._validation: list[Batch] = []
        self._state: dict[str, object] = {"done": [], "seen": 0}
        if self._state_file.exists():
            self._state = torch.load(self._state_file, map_location="cpu", weights_only=True)
            self.model.load_state_dict(self._state.pop("model"))
            self.heads.load_state_dict(self._state.pop("heads"))
        self.model.to(config.device)
        self.heads.to(config.device)
        if config.compile:
            self._compile()

    def run(self, stage: Stage) -> None:
        """Train the stage to its end; a finished one is passed over."""
        if stage.name in self._state["done"]:
            return
        config = self._config
        optimizers = Optimizers(self._modules(), stage.rates)
        if self._state.get("stage") == stage.name:
            optimizers.load_state_dict(self._state["optimizers"])
        else:
            self._state |= {"stage": stage.name, "step": 0, "elapsed": 0.0}
        step, before = int(self._state["step"]), float(self._state["elapsed"])
        began = saved = time.monotonic()
        next_validation = 0.0
        bar = tqdm(total=stage.steps, initial=step, desc=stage.name, mininterval=5)
        waited, asked_for = 0.0, time.monotonic()
        for batch in self._batches(stage.steps - step):
            waited += time.monotonic() - asked_for
            elapsed = before + time.monotonic() - began
            progress = max(step / stage.steps, elapsed / (60 * stage.minutes))
            if progress >= 1:
                break
            losses = self._learn(stage, batch, optimizers, progress)
            step += 1
            self._state["seen"] = int(self._state["seen"]) + len(batch.tiles)
            self._state |= {"step": step, "elapsed": elapsed}
            bar.update()
            if step % config.log_steps == 0:
                values = {name: round(float(loss), 4) for name, loss in losses.items()}
                bar.set_postfix(values, refresh=False)
                seen = {"images": self._state["seen"], "elapsed": round(elapsed, 1), "waited": round(waited, 1)}
                self._log({"stage": stage.name, "step": step, "progress": progress, **seen, **values})
            if progress >= next_validation and stage.answers:
                next_validation = progress + 1 / config.validations
                self._log({"stage": stage.name, "step": step, "progress": progress, "right": self.validate()})
            if time.monotonic() - saved > 60 * config.save_minutes:
                self._save(optimizers)
                saved = time.monotonic()
            asked_for = time.monotonic()
        bar.close()
        self._state["done"] = [*self._state["done"], stage.name]
        if stage.answers:
            self._log({"stage": stage.name, "step": step, "progress": 1.0, "right": self.validate()})
        self._save(None)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The share of answers that are right to the last token, by topic, on scenes kept for this."""
        right, count = torch.zeros(len(TOPICS)), torch.zeros(len(TOPICS))
        for batch in self._validation_batches():
            batch = batch.to(self._config.device)
            with self._autocast():
                said = answers(self.model, batch, hidden_states(self.model, batch.tiles))
            hits, asked = said.right_by_topic()
            right, count = right + hits.cpu(), count + asked.cpu()
        return {topic.value: round(float(r / max(c, 1)), 3) for topic, r, c in zip(TOPICS, right, count, strict=True)}

    def _validation_batches(self) -> list[Batch]:
        """The same few batches each time, drawn once."""
        if not self._validation:
            config = dataclasses.replace(self._config.batch, split="validation")
            count = self._config.validation_batches
            source = Batches(self._config.architecture, self.tokenizer, config, count)
            loader = DataLoader(source, batch_size=None, num_workers=min(self._config.workers, count))
            self._validation = list(loader)
        return self._validation

    def export(self, folder: Path) -> None:
        """Write the model as a checkpoint in Hugging Face's format."""
        model = new_model(self._config.architecture, self.tokenizer)
        model.load_state_dict(self.model.state_dict())
        save_checkpoint(folder, model, self._config.architecture, self.tokenizer)

    def _learn(self, stage: Stage, batch: Batch, optimizers: Optimizers, progress: float) -> dict[str, torch.Tensor]:
        batch = batch.to(self._config.device)
        targets = tower_targets(batch, self._config.architecture)
        with self._autocast():
            states = hidden_states(self.model, batch.tiles)
            tower = self.heads(states, targets)
            losses = {field.name: getattr(tower, field.name) for field in dataclasses.fields(tower)}
            loss = stage.tower_weight * tower.total()
            if stage.answers:
                losses["answers"] = answers(self.model, batch, states).loss()
                loss = loss + losses["answers"]
        loss.backward()
        optimizers.step(progress)
        return {name: value.detach() for name, value in losses.items()}

    def _batches(self, count: int) -> Iterator[Batch]:
        """Batches that this run has not seen."""
        first = int(self._state.get("batches", 0))
        source = Batches(self._config.architecture, self.tokenizer, self._config.batch, first + count)
        workers = self._config.workers
        loader = DataLoader(
            Subset(source, range(first, first + count)),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=3 if workers else None,
            pin_memory=self._config.device.type == "cuda",
        )
        for number, batch in enumerate(loader, start=first + 1):
            self._state["batches"] = number
            yield batch

    def _modules(self) -> dict[str, nn.Module]:
        inner = self.model.model
        rest = nn.ModuleList([self.heads, inner.multi_modal_projector, self.model.lm_head])
        rest.register_parameter("image_newline", inner.image_newline)
        return {"vision": inner.vision_tower, "text": inner.language_model, "other": rest}

    def _compile(self) -> None:
        """Compile layer by layer: tiles always come in equal numbers, sequences in many lengths."""
        for layer in self.model.model.vision_tower.encoder.layers:
            layer.compile()
        for layer in self.model.model.language_model.layers:
            layer.compile(dynamic=True)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._config.device.type, torch.bfloat16, enabled=self._config.device.type == "cuda")

    def _save(self, optimizers: Optimizers | None) -> None:
        state = {**self._state, "model": self.model.state_dict(), "heads": self.heads.state_dict()}
        state["optimizers"] = None if optimizers is None else optimizers.state_dict()
        fresh = self._state_file.with_suffix(".new")
        torch.save(state, fresh)
        fresh.replace(self._state_file)

    def _log(self, entry: dict[str, object]) -> None:
        with self._log_file.open("a") as file:
            file.write(json.dumps(entry) + "\n")
