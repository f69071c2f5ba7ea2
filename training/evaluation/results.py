"""What was asked and answered, and how it is kept in files."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from training.dialogue.held_out import Example
from training.dialogue.questions import Question, Topic
from training.dialogue.scoring import score, score_with_places

Fact = str | int | float | None

_ANSWERS = "answers.jsonl"
_RUN = "run.json"


@dataclass(frozen=True)
class Seen:
    """An image as the language model got it under one condition."""

    grid: tuple[int, int]  # rows and columns of crops
    vision_tokens: int  # that entered the language model, newlines included
    layer_tokens: float  # of these, in a layer's cache, mean over the layers: fewer where it drops some


@dataclass(frozen=True)
class Answer:
    """One question's answer under one condition, with its score."""

    condition: str
    image: int  # number in the held-out set
    grid: tuple[int, int]  # rows and columns of crops
    vision_tokens: int  # that entered the language model, newlines included
    layer_tokens: float  # of these, in a layer's cache, mean over the layers
    topic: Topic
    question: str
    expected: str
    answer: str
    score: float  # 0 to 1
    score_with_places: float | None  # 0 to 1, captions only

    @classmethod
    def scored(cls, condition: str, example: Example, question: Question, seen: Seen, text: str) -> "Answer":
        """Score what the model said."""
        places = score_with_places(example.scene, text) if question.topic is Topic.CAPTION else None
        return cls(
            condition=condition,
            image=example.number,
            grid=seen.grid,
            vision_tokens=seen.vision_tokens,
            layer_tokens=seen.layer_tokens,
            topic=question.topic,
            question=question.text,
            expected=question.answer,
            answer=text,
            score=score(example.scene, question, text),
            score_with_places=places,
        )


@dataclass(frozen=True)
class Run:
    """One evaluation: every condition's answers to the same questions."""

    facts: Mapping[str, Fact]  # of the model, the machine and the images
    conditions: tuple[str, ...]
    answers: tuple[Answer, ...]

    def write(self, folder: Path) -> None:
        """Keep the run in a folder, over whatever run is there."""
        folder.mkdir(parents=True, exist_ok=True)
        head = {"facts": dict(self.facts), "conditions": list(self.conditions)}
        (folder / _RUN).write_text(json.dumps(head, indent=2) + "\n")
        with (folder / _ANSWERS).open("w") as file:
            for answer in self.answers:
                file.write(json.dumps({**asdict(answer), "topic": answer.topic.value}, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """A run that `write` has kept.

        Raises:
            OSError: the folder holds none.
        """
        head = json.loads((folder / _RUN).read_text())
        return cls(head["facts"], tuple(head["conditions"]), tuple(_read_answers(folder / _ANSWERS)))


def _read_answers(path: Path) -> Iterable[Answer]:
    with path.open() as file:
        for line in file:
            fields = json.loads(line)
            fields["topic"] = Topic(fields["topic"])
            fields["grid"] = tuple(fields["grid"])
            yield Answer(**fields)
