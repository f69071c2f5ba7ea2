"""Questions about a scene, with their correct answers."""

import enum
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from training.dialogue.captions import caption
from training.scenes.scene import Item, Scene
from training.scenes.vocabulary import COLOURS, EMOJI, KINDS, plural, with_article


class Topic(enum.Enum):
    """The topic of a question."""

    WHAT = "what"
    COLOUR = "colour"
    EXIST = "is there"
    WHERE = "where"
    COUNT = "how many"
    READ = "read"
    CAPTION = "caption"


@dataclass(frozen=True)
class Question:
    """A question and its only correct answer."""

    topic: Topic
    text: str
    answer: str


def ask(scene: Scene, topic: Topic, lots: random.Random) -> Question | None:
    """A question on this topic, or None if the scene does not allow one."""
    asked = _ASK[topic](scene, lots)
    if asked is None:
        return None
    forms, words, answer = asked
    return Question(topic, lots.choice(forms).format(**words), answer)


def about_image(question: Question, ordinal: str) -> Question:
    """The same question for several images: `ordinal` is "first", "second", ..."""
    if question.topic is Topic.CAPTION:
        return Question(question.topic, f"Describe the {ordinal} image.", question.answer)
    text, mark = question.text[:-1], question.text[-1]
    return Question(question.topic, f"{text} in the {ordinal} image{mark}", question.answer)


Asked = tuple[tuple[str, ...], dict[str, str], str] | None  # phrasings, the values to fill in, the answer


def _what(scene: Scene, lots: random.Random) -> Asked:
    cells = Counter(scene.cell(item) for item in scene.items)
    alone = [item for item in scene.items if cells[scene.cell(item)] == 1]
    if not alone:
        return None
    item = lots.choice(alone)
    return ("What is {place}?", "Which thing is {place}?"), {"place": scene.place(item)}, with_article(item.name)


def _colour(scene: Scene, lots: random.Random) -> Asked:
    item = _choose(lots, (item for item in _unique(scene) if item.colour is not None))
    if item is None or item.colour is None:
        return None
    return ("What colour is the {kind}?", "Which colour is the {kind}?"), {"kind": item.kind}, item.colour


def _exist(scene: Scene, lots: random.Random) -> Asked:
    there = {item.name for item in scene.items} | {item.kind for item in scene.items}
    if lots.random() < 0.5:
        item = lots.choice(scene.items)
        return _EXIST, {"noun": with_article(lots.choice((item.name, item.kind)))}, "yes"
    # Half of the absent items are nearly present: the right kind in another colour.
    coloured = [item.kind for item in scene.items if item.colour is not None]
    kind = lots.choice(coloured) if coloured and lots.random() < 0.5 else lots.choice(KINDS)
    colour = lots.choice(sorted(COLOURS))
    noun = kind if kind in EMOJI or (kind not in there and lots.random() < 0.5) else f"{colour} {kind}"
    return _EXIST, {"noun": with_article(noun)}, "yes" if noun in there else "no"


_EXIST = ("Is there {noun}?", "Can you see {noun}?")


def _where(scene: Scene, lots: random.Random) -> Asked:
    item = _choose(lots, _unique(scene))
    if item is not None:
        return ("Where is the {noun}?",), {"noun": lots.choice((item.kind, item.name))}, scene.place(item)
    names = Counter(item.name for item in scene.items)
    item = _choose(lots, (item for item in scene.items if names[item.name] == 1))
    return None if item is None else (("Where is the {noun}?",), {"noun": item.name}, scene.place(item))


def _count(scene: Scene, lots: random.Random) -> Asked:
    counts = Counter(item.kind for item in scene.items)
    several = [kind for kind, count in sorted(counts.items()) if count > 1]
    lot = lots.random()
    if several and lot < 0.7:
        kind = lots.choice(several)
    elif lot < 0.85:
        kind = lots.choice(sorted(counts))
    else:
        kind = lots.choice(KINDS)
    return ("How many {kinds} are there?", "Count the {kinds}."), {"kinds": plural(kind)}, str(counts[kind])


def _read(scene: Scene, lots: random.Random) -> Asked:
    signs = [item for item in scene.items if item.is_sign]
    hung = [item for item in _unique(scene) if not item.is_sign and item.prints]
    item = _choose(lots, [*signs, *hung])
    if item is None:
        return None
    answer, words = item.prints[0].text, {"kind": item.kind, "name": item.name}
    if item.label is not None:
        return ("What does the label under the {kind} read?", "Read the label under the {kind}."), words, answer
    if item.price is not None:
        return ("How much is the {kind}?", "What is the price of the {kind}?"), words, answer
    if len(signs) == 1:
        return ("What does the sign read?", "Read the sign.", "What does the {name} read?"), words, answer
    return ("What does the {name} read?", "Read the {name}."), words, answer


def _caption(scene: Scene, lots: random.Random) -> Asked:
    return _CAPTION, {}, caption(scene)


_CAPTION = (
    "Describe the image.",
    "Describe the image.",
    "Describe this picture.",
    "What is in the image?",
    "What do you see?",
    "Caption this image.",
)

_ASK: dict[Topic, Callable[[Scene, random.Random], Asked]] = {
    Topic.WHAT: _what,
    Topic.COLOUR: _colour,
    Topic.EXIST: _exist,
    Topic.WHERE: _where,
    Topic.COUNT: _count,
    Topic.READ: _read,
    Topic.CAPTION: _caption,
}


def _unique(scene: Scene) -> list[Item]:
    """The items that are the only ones of their kind."""
    kinds = Counter(item.kind for item in scene.items)
    return [item for item in scene.items if kinds[item.kind] == 1]


def _choose(lots: random.Random, items: Iterator[Item] | list[Item]) -> Item | None:
    choices = list(items)
    return lots.choice(choices) if choices else None
