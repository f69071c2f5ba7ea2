"""Describes a scene in one sentence, and parses the items from such a sentence."""

import re
from collections import Counter
from dataclasses import dataclass

from training.scenes.scene import Item, Scene
from training.scenes.vocabulary import COLOURS, KINDS, PLACES, with_article

_PLACES = [place for row in PLACES for place in row]


@dataclass(frozen=True)
class Mention:
    """One item as a caption names it."""

    name: str  # "red heart"
    print: str  # what its sign, label or price tag reads; empty without one
    place: str

    @property
    def without_place(self) -> tuple[str, str]:
        return self.name, self.print


def caption(scene: Scene) -> str:
    """Describe the scene: "A cat at the top left and a red sign that reads OPEN on the right."."""
    phrases = [f"{_phrase(item)} {scene.place(item)}" for item in scene.in_reading_order()]
    sentence = phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
    return f"{sentence[0].upper()}{sentence[1:]}."


def mentions_in(scene: Scene) -> list[Mention]:
    """The items that a perfect caption mentions."""
    return [Mention(item.name, item.prints[0].text if item.prints else "", scene.place(item)) for item in scene.items]


def parse_caption(text: str) -> list[Mention]:
    """The items that a caption names; other phrases are skipped."""
    return [
        Mention(
            name=match["name"], print=match["label"] or match["price"] or match["reads"] or "", place=match["place"]
        )
        for match in _PHRASE.finditer(text[:1].lower() + text[1:])
    ]


def item_f1(expected: list[Mention], found: list[Mention], *, places: bool) -> float:
    """F1 over items, each counted as often as it occurs; with `places` an item must also be where it is said to be."""

    def count(mentions: list[Mention]) -> Counter[object]:
        return Counter(mention if places else mention.without_place for mention in mentions)

    hits = (count(expected) & count(found)).total()
    return 2 * hits / (len(expected) + len(found)) if hits else 0.0


def _phrase(item: Item) -> str:
    phrase = with_article(item.name)
    if item.reads is not None:
        return f"{phrase} that reads {item.reads.text}"
    if item.label is not None:
        return f"{phrase} labelled {item.label.text}"
    return phrase if item.price is None else f"{phrase} for {item.price.text}"


def _either(words: list[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))  # "at the top left" before "at the top"


_PHRASE = re.compile(
    rf"\b(?:an?|some) (?P<name>(?:(?:{_either(list(COLOURS))}) )?(?:{_either(list(KINDS))}))"
    r"(?: labelled (?P<label>\S+)| for (?P<price>\S+)| that reads (?P<reads>\S+))?"
    rf" (?P<place>{_either(_PLACES)})\b"
)
