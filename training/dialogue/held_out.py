"""The held-out set: images and questions by seed, from a range that training never touches."""

import random
from dataclasses import dataclass

from training.dialogue.questions import Question, Topic, ask
from training.scenes.lots import GRIDS, Canvas, draw_scene
from training.scenes.scene import Scene


@dataclass(frozen=True)
class Example:
    """An image with its questions."""

    number: int
    scene: Scene
    questions: tuple[Question, ...]


def held_out(number: int, tile: int) -> Example:
    """The `number`th image for tiles of `tile` pixels; grids alternate."""
    return example("held-out", number, Canvas(*GRIDS[number % len(GRIDS)], tile))


def example(split: str, number: int, canvas: Canvas) -> Example:
    """An image of a split ("train", "held-out", ...) with one question on every topic that the scene allows."""
    seed = f"{split}/{number}"
    scene = draw_scene(seed, canvas)
    lots = random.Random(f"{seed}/questions")
    asked = (ask(scene, topic, lots) for topic in Topic)
    return Example(number, scene, tuple(question for question in asked if question is not None))
