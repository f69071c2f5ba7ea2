"""Runs a training stage from its last state to its end, with a log, a progress bar and a state to resume from."""

import dataclasses
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm
from transformers import LlavaNextForConditionalGeneration, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from training.data.batches import Batch, BatchConfig, Batches
from training.data.prompts import TOPICS
from training.learning import shared_prefix
from training.learning.forward import answers, hidden_states
from training.learning.optimizers import LearningRates, Optimizers
from training.learning.state import Progress, SavedRun
from training.learning.targets import tower_targets
from training.learning.tower_loss import TowerHeads
from training.model.checkpoint import Architecture, new_model, save_checkpoint
from training.model.tokenizer import build_tokenizer

_STATE, _TOKENIZER = "state.pt", "tokenizer"  # file names in a run's folder


@dataclass(frozen=True)
class Stage:
    """A part of training with a separate learning rate schedule."""

    name: str
    steps: int
    minutes: float  # the schedule ends after this many minutes if that is sooner than `steps`
    answers: bool  # whether the language model is trained too
    rates: LearningRates
    tower_weight: float  # weight of the tower's losses relative to that of the answers
    batch: BatchConfig


@dataclass(frozen=True)
class TrainingConfig:
    """The settings common to all stages."""

    run: Path  # folder with the state and the log
    device: torch.device
    workers: int
    compile: bool
    autocast: bool  # matrix products in bfloat16
    architecture: Architecture
    start: Path | None = None  # checkpoint, or another run, that a new run starts from; None for random weights
    save_minutes: float = 5.0
    log_steps: int = 20
    validations: int = 12  # per stage
    validation_tiles: int = 840
    validation_batches: int = 4


class Stopwatch:
    """The seconds that a stage has taken, including those before an interruption."""

    def __init__(self, before: float) -> None:
        self._before, self._began = before, time.monotonic()
        self.waited = 0.0  # for batches, since the last resumption

    @property
    def elapsed(self) -> float:
        return self._before + time.monotonic() - self._began

    def time_waiting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; the time to get each one counts as waiting."""
        asked_for = time.monotonic()
        for batch in batches:
            self.waited += time.monotonic() - asked_for
            yield batch
            asked_for = time.monotonic()


class Trainer:
    """The model in training, and the run's folder."""

    def __init__(self, config: TrainingConfig) -> None:
        """Load the run's model if it has one, else start with that of `start` or a new one.

        Raises:
            RuntimeError: `start` has another architecture.
        """
        torch.manual_seed(0)
        shared_prefix.register()
        torch.backends.cuda.matmul.allow_tf32 = True
        self._config = config
        self.tokenizer = self._load_tokenizer(config.run / _TOKENIZER)
        self.model = new_model(config.architecture, self.tokenizer)
        self.model.model.language_model.config._attn_implementation = shared_prefix.NAME
        self.heads = TowerHeads(config.architecture.vision_width, config.architecture.side)
        config.run.mkdir(parents=True, exist_ok=True)
        self._state_file, self._log_file = config.run / _STATE, config.run / "log.jsonl"
        self._validation: list[Batch] = []
        self._progress = Progress()
        self._saved_optimizers: dict[str, dict[str, Any]] | None = None
        if self._state_file.exists():
            self._take_up(SavedRun.read(self._state_file))
        elif config.start is not None:
            self._begin_from(config.start)
        self.model.to(config.device)
        self.heads.to(config.device)
        if config.compile:
            self._compile()

    def run(self, stage: Stage) -> None:
        """Train the stage to its end; a finished stage is skipped."""
        run, config = self._progress, self._config
        if stage.name in run.done:
            return
        optimizers = self._begin(stage)
        watch = Stopwatch(run.elapsed)
        saved, next_validation = time.monotonic(), 0.0
        with tqdm(total=stage.steps, initial=run.step, desc=stage.name, mininterval=5) as bar:
            for batch in watch.time_waiting(self._batches(stage.batch, stage.steps - run.step)):
                elapsed = watch.elapsed
                share = max(run.step / stage.steps, elapsed / (60 * stage.minutes))
                if share >= 1:
                    break
                losses = self._learn(stage, batch, optimizers, share)
                run.count_step(len(batch.tiles), elapsed)
                bar.update()
                if run.step % config.log_steps == 0:
                    values = {name: round(float(loss), 4) for name, loss in losses.items()}
                    bar.set_postfix(values, refresh=False)
                    times = {"elapsed": round(elapsed, 1), "waited": round(watch.waited, 1)}
                    self._log(share, {"images": run.seen, **times, **values})
                if share >= next_validation and stage.answers:
                    next_validation = share + 1 / config.validations
                    self._log(share, {"right": self.validate()})
                if time.monotonic() - saved > 60 * config.save_minutes:
                    self._save(optimizers)
                    saved = time.monotonic()
        run.done.append(stage.name)
        if stage.answers:
            self._log(1.0, {"right": self.validate()})
        self._save(None)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The share of entirely right answers, by topic, on scenes reserved for this."""
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
            config = BatchConfig(tiles=self._config.validation_tiles, uneven_positions=0.0, split="validation")
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

    def _begin_from(self, start: Path) -> None:
        """Load another run's weights, for batches that it has not seen; a checkpoint has no heads."""
        if (start / _STATE).exists():
            saved = SavedRun.read(start / _STATE)
            seen = Progress(seen=saved.progress.seen, batches=saved.progress.batches)
            self._take_up(SavedRun(seen, saved.model, saved.heads, None))
        else:
            begun = LlavaNextForConditionalGeneration.from_pretrained(start, dtype=torch.float32)
            self.model.load_state_dict(begun.state_dict())

    def _take_up(self, saved: SavedRun) -> None:
        self.model.load_state_dict(saved.model)
        self.heads.load_state_dict(saved.heads)
        self._progress, self._saved_optimizers = saved.progress, saved.optimizers

    def _begin(self, stage: Stage) -> Optimizers:
        """The stage's optimizers: new ones, or those of the interrupted stage."""
        optimizers = Optimizers(self._modules(), stage.rates)
        if self._progress.stage != stage.name:
            self._progress.begin(stage.name)
        elif self._saved_optimizers is not None:
            optimizers.load_state_dict(self._saved_optimizers)
        self._saved_optimizers = None
        return optimizers

    def _load_tokenizer(self, folder: Path) -> PreTrainedTokenizerBase:
        """The run's tokenizer, learnt when the run starts, since versions of the library break ties differently."""
        if not folder.exists():
            start = self._config.start
            if start is None:
                tokenizer = build_tokenizer()
            else:
                learnt = start / _TOKENIZER if (start / _STATE).exists() else start
                tokenizer = PreTrainedTokenizerFast.from_pretrained(learnt)
            tokenizer.save_pretrained(folder)
        return PreTrainedTokenizerFast.from_pretrained(folder)

    def _batches(self, config: BatchConfig, count: int) -> Iterator[Batch]:
        """Batches that this run has not seen."""
        first = self._progress.batches
        source = Batches(self._config.architecture, self.tokenizer, config, first + count)
        workers = self._config.workers
        loader = DataLoader(
            Subset(source, range(first, first + count)),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=3 if workers else None,
            pin_memory=self._config.device.type == "cuda",
        )
        for number, batch in enumerate(loader, start=first + 1):
            self._progress.batches = number
            yield batch

    def _modules(self) -> dict[str, nn.Module]:
        inner = self.model.model
        rest = nn.ModuleList([self.heads, inner.multi_modal_projector, self.model.lm_head])
        rest.register_parameter("image_newline", inner.image_newline)
        return {"vision": inner.vision_tower, "text": inner.language_model, "other": rest}

    def _compile(self) -> None:
        """Compile layer by layer: tiles always come in equal numbers, but sequences in many lengths."""
        for layer in self.model.model.vision_tower.encoder.layers:
            layer.compile()
        for layer in self.model.model.language_model.layers:
            layer.compile(dynamic=True)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._config.device.type, torch.bfloat16, enabled=self._config.autocast)

    def _save(self, optimizers: Optimizers | None) -> None:
        state = None if optimizers is None else optimizers.state_dict()
        SavedRun(self._progress, self.model.state_dict(), self.heads.state_dict(), state).write(self._state_file)

    def _log(self, share: float, values: dict[str, object]) -> None:
        """Log one line about the stage at `share` (0 to 1) of its progress."""
        entry = {"stage": self._progress.stage, "step": self._progress.step, "progress": share, **values}
        with self._log_file.open("a") as file:
            file.write(json.dumps(entry) + "\n")
