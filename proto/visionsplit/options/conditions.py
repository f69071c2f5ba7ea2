"""The words by which command lines name what is done to vision tokens: "globalcom2:score=local,tau=5@0.1"."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from visionsplit.options.compression import Compression
from visionsplit.options.layout import LAYOUTS, Layout
from visionsplit.options.prefill import Pruning

ValueT = TypeVar("ValueT", bound=str)
# The options of a compression that are words, such as score and budget.
_WORDS = tuple(field.name for field in fields(Compression) if field.type == str | None)

METHOD_FORM = "METHOD[:NAME=VALUE[,NAME=VALUE...]][@RATIO]"
CONDITION_FORM = f"{METHOD_FORM}[+PRUNING[:NAME=VALUE...][@RATIO]]"

# A plus at the end of a name, as in prumerge+, is part of the name.
_CONDITION = re.compile(r"(?P<encoder>.+?)(?:\+(?P<pruning>[^+:@].*))?")


@dataclass(frozen=True)
class MethodWord:
    """One method as it is written in a condition. Whether method and settings exist is not looked at."""

    condition: str  # the whole of which this is a part, for messages
    method: str
    settings: Mapping[str, str]  # a value can hold no comma and no @
    ratio: float | None

    def setting(self, name: str, values: Collection[ValueT]) -> ValueT | None:
        """Which of some values the setting's text is, or None where it is not set.

        Raises:
            ValueError: another text is set.
        """
        text = self.settings.get(name)
        if text is None:
            return None
        for value in values:
            if value == text:
                return value
        raise ValueError(f"condition {self.condition!r} has the {name} {text!r}; {' and '.join(values)} exist")

    def numbers(self, *, besides: Collection[str]) -> dict[str, float]:
        """The settings of other names than these.

        Raises:
            ValueError: one is not a number.
        """
        return {
            name: _number(self.condition, name, value) for name, value in self.settings.items() if name not in besides
        }

    def compression(self, layout: Layout = "spatial", *, besides: Collection[str] = ()) -> Compression:
        """The compression of this word: its words and the layout by their names, every other setting a parameter.

        Args:
            layout: where the word names none.
            besides: settings that mean something else to the caller.

        Raises:
            ValueError: the layout is unknown, or a parameter is not a number.
        """
        words: dict[str, Any] = {name: self.settings[name] for name in _WORDS if name in self.settings}
        return Compression(
            self.method,
            self.ratio,
            self.setting("layout", LAYOUTS) or layout,
            parameters=self.numbers(besides=(*_WORDS, "layout", *besides)),
            **words,
        )

    def pruning(self) -> Pruning:
        """The pruning of this word.

        Raises:
            ValueError: a setting is not a number.
        """
        return Pruning(self.method, self.ratio, self.numbers(besides=()))


def compression_words(compression: Compression) -> dict[str, str]:
    """The words that a compression sets, by name; the layout where it is not spatial."""
    words = {name: value for name in _WORDS if (value := getattr(compression, name)) is not None}
    return words if compression.layout == "spatial" else {**words, "layout": compression.layout}


def split_condition(text: str) -> tuple[MethodWord, MethodWord | None]:
    """What the encoder does, and behind a plus how the language model prunes, if it does.

    Raises:
        ValueError: the text has another form, or a ratio is outside (0, 1].
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise ValueError(f"condition {text!r} is empty; the form is {CONDITION_FORM}")
    pruning = found["pruning"]
    return _method(text, found["encoder"]), None if pruning is None else _method(text, pruning)


def _method(condition: str, part: str) -> MethodWord:
    head, at, ratio = part.partition("@")
    method, _, listed = head.partition(":")
    if not method:
        raise ValueError(f"condition {condition!r} names no method; the form is {CONDITION_FORM}")
    settings: dict[str, str] = {}
    for setting in filter(None, listed.split(",")):
        name, separator, value = setting.partition("=")
        if not (name and separator):
            raise ValueError(f"condition {condition!r} has the setting {setting!r}; the form is {CONDITION_FORM}")
        settings[name] = value
    return MethodWord(condition, method, settings, _ratio(condition, ratio) if at else None)


def _ratio(condition: str, text: str) -> float:
    ratio = _number(condition, "the ratio", text)
    if not 0 < ratio <= 1:  # false for NaN too
        raise ValueError(f"condition {condition!r} has the ratio {text}; it must be above 0 and at most 1")
    return ratio


def _number(condition: str, name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"condition {condition!r} has {value!r} for {name}; a number is needed") from None
