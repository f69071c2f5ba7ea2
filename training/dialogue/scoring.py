"""Scores answers and captions."""

from training.dialogue.captions import item_f1, mentions_in, parse_caption
from training.dialogue.questions import Question, Topic
from training.scenes.scene import Scene


def score(scene: Scene, question: Question, answer: str) -> float:
    """1 or 0 for an answer, which must be exact except for case and the full stop; for a caption its items' F1."""
    if question.topic is Topic.CAPTION:
        return item_f1(mentions_in(scene), parse_caption(answer), places=False)
    return float(_plain(answer) == _plain(question.answer))


def score_with_places(scene: Scene, answer: str) -> float:
    """A caption's F1 in which an item counts only at its right place."""
    return item_f1(mentions_in(scene), parse_caption(answer), places=True)


def _plain(answer: str) -> str:
    return answer.strip().lower().removesuffix(".")
