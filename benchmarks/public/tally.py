"""Counts the language model's input, task by task."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visionsplit_client import Usage

ALL = "all"  # the sum over tasks


@dataclass
class Sums:
    """Sums over questions."""

    questions: int = 0
    images: int = 0
    vision: int = 0  # kept by the encoder, without newlines
    before: int = 0  # the same without compression
    newlines: int = 0
    text: int = 0
    generated: int = 0
    over_layers: float = 0.0  # vision tokens and newlines, mean over the language model's layers

    def add(self, images: int, usage: Usage, layer_tokens: Sequence[int]) -> None:
        entering = usage.vision_tokens + usage.newline_tokens
        self.questions += 1
        self.images += images
        self.vision += usage.vision_tokens
        self.before += usage.vision_tokens_before
        self.newlines += usage.newline_tokens
        self.text += usage.text_tokens
        self.generated += usage.generated_tokens
        # No method drops text, so the tokens of a layer that are not text belong to the image.
        self.over_layers += sum(layer_tokens) / len(layer_tokens) - usage.text_tokens if layer_tokens else entering

    def report(self) -> dict[str, Any]:
        """Means over the questions, and shares of an uncompressed run's values.

        Newlines are never compressed, so an uncompressed prompt has as many.
        """
        questions = max(self.questions, 1)
        whole = self.before + self.newlines
        return {
            "questions": self.questions,
            "images": self.images,
            "mean_llm_vision_tokens": (self.vision + self.newlines) / questions,
            "mean_newline_tokens": self.newlines / questions,
            "mean_text_tokens": self.text / questions,
            "mean_generated_tokens": self.generated / questions,
            "mean_vision_tokens_before": whole / questions,
            "retention": self.vision / self.before if self.before else None,
            "retention_with_newlines": (self.vision + self.newlines) / whole if whole else None,
            "mean_vision_tokens_over_layers": self.over_layers / questions,
            "retention_over_layers": self.over_layers / whole if whole else None,
        }


@dataclass
class Tally:
    """Sums by task."""

    tasks: defaultdict[str, Sums] = field(default_factory=lambda: defaultdict(Sums))

    def add(self, task: str, images: int, usage: Usage, layer_tokens: Sequence[int]) -> None:
        for name in (task, ALL):
            self.tasks[name].add(images, usage, layer_tokens)

    def report(self) -> dict[str, dict[str, Any]]:
        return {name: sums.report() for name, sums in self.tasks.items()}

    def lines(self) -> list[str]:
        """One sentence per task."""
        return [_sentence(name, figures) for name, figures in self.report().items()]

    def write(self, path: Path, about: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**about, "tasks": self.report()}, indent=2) + "\n")


def _sentence(name: str, figures: dict[str, Any]) -> str:
    if figures["retention"] is None:
        return f"{name}: {figures['questions']} questions without images"
    return (
        f"{name}: {figures['questions']} questions, {figures['images']} images; "
        f"{figures['mean_llm_vision_tokens']:.1f} vision tokens (newlines included) entered the language model, of "
        f"{figures['mean_vision_tokens_before']:.1f}; {figures['retention']:.1%} kept without newlines, "
        f"{figures['retention_over_layers']:.1%} over the layers with them"
    )
