"""The questions and answers of an evaluation, and their files."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from training.dialogue.held_out import Example
from training.dialogue.questions import Question, Topic
from training.dialogue.scoring import score, score_with_places
from training.evaluation.crowding import fullest_crop

Fact = str | int | float | None

_ANSWERS = "answers.jsonl"
_RUN = "run.json"


@dataclass(frozen=True)
class Seen:
    """An image as the language model received it under one condition."""

    grid: tuple[int, int]  # rows and columns of crops
    vision_tokens: int  # at the language model's input, newlines included
    layer_tokens: float  # in a layer's cache, mean over the layers: fewer if it drops some


@dataclass(frozen=True)
class Answer:
    """One question's answer under one condition, with its score."""

    condition: str
    image: int  # number in the held-out set
    grid: tuple[int, int]  # rows and columns of crops
    fullest_crop: float  # share of the drawn area in one crop, 0 to 1
    vision_tokens: int  # at the language model's input, newlines included
    layer_tokens: float  # in a layer's cache, mean over the layers
    topic: Topic
    question: str
    expected: str
    answer: str
    score: float  # 0 to 1
    score_with_places: float | None  # 0 to 1, captions only

    @classmethod
    def scored(cls, condition: str, example: Example, question: Question, seen: Seen, text: str) -> "Answer":
        """Score the model's answer."""
        places = score_with_places(example.scene, text) if question.topic is Topic.CAPTION else None
        return cls(
            condition=condition,
            image=example.number,
            grid=seen.grid,
            fullest_crop=fullest_crop(example.scene, seen.grid),
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
        """Write the run to a folder, replacing another run there."""
        folder.mkdir(parents=True, exist_ok=True)
        head = {"facts": dict(self.facts), "conditions": list(self.conditions)}
        (folder / _RUN).write_text(json.dumps(head, indent=2) + "\n")
        with (folder / _ANSWERS).open("w") as file:
            for answer in self.answers:
                file.write(json.dumps({**asdict(answer), "topic": answer.topic.value}, ensure_ascii=False) + "\n")

    def crowded(self, share: float) -> "Run":
        """The same for the images in which one crop holds at least this share of the drawn area.

        Raises:
            ValueError: there is none.
        """
        answers = tuple(answer for answer in self.answers if answer.fullest_crop >= share)
        if not answers:
            raise ValueError(f"in none of the images does one crop hold {100 * share:g}% of what is drawn")
        facts = {"only images with": f"{100 * share:g}% or more of what is drawn in one crop", **self.facts}
        return replace(self, facts=facts, answers=answers)

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Read a run from the folder that `write` wrote.

        Raises:
            OSError: the folder holds none.
            ValueError: another version of this code has kept it.
        """
        head = json.loads((folder / _RUN).read_text())
        return cls(head["facts"], tuple(head["conditions"]), tuple(_read_answers(folder / _ANSWERS)))


def _read_answers(path: Path) -> Iterable[Answer]:
    names = {field.name for field in fields(Answer)}
    with path.open() as file:
        for line in file:
            kept = json.loads(line)
            if kept.keys() != names:
                raise ValueError(f"{path} is of another version of visionsplit: evaluate again")
            kept["topic"] = Topic(kept["topic"])
            kept["grid"] = tuple(kept["grid"])
            yield Answer(**kept)
