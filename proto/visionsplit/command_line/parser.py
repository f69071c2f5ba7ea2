"""What all command lines share: a parser that fails with one line, and the kinds of values that options take."""

import argparse
import enum
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from visionsplit.network.addresses import check_address, split_host_port

ValueT = TypeVar("ValueT")
EnumT = TypeVar("EnumT", bound=enum.Enum)

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

_DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,4})?")


class OneLineParser(argparse.ArgumentParser):
    """One line for a wrong usage, where argparse's own lists every option first. Options are not abbreviated: an option
    of one command would be taken for a longer one of another."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - argparse's own
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


@dataclass(frozen=True)
class Kind(Generic[ValueT]):
    """A kind of value. An instance can be the `type` of an argparse option."""

    convert: Callable[[str], ValueT]  # raises ValueError; its text says what is wrong
    accepted: str  # as it follows "is not"
    metavar: str  # stands for the value in a help text
    show: Callable[[ValueT], str] = str  # the text that `convert` reads as this value

    def __call__(self, text: str) -> ValueT:
        """
        Raises:
            argparse.ArgumentTypeError: the text is not of this kind.
        """
        try:
            return self.convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None


def at_least(least: int, *, most: int | None = None, metavar: str = "N") -> Kind[int]:
    """Whole numbers from `least` on, up to `most` where that is given."""
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"

    def convert(text: str) -> int:
        digits = text.removeprefix("-")
        whole = digits.isascii() and digits.isdecimal()
        if not whole or int(text) < least or (most is not None and int(text) > most):
            raise ValueError(f"{text!r} is not a whole number {bounds}")
        return int(text)

    return Kind(convert, f"a whole number {bounds}", metavar)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None


def _share(text: str) -> float:
    value = _number(text)
    if not 0 < value <= 1:  # false for NaN too
        hint = f"; for {text} percent write {value / 100:g}" if 2 <= value <= 100 else ""
        raise ValueError(f"{text} is not above 0 and at most 1{hint}")
    return value


def _finite(text: str, *, above: bool) -> float:
    value = _number(text)
    if not (math.isfinite(value) and (value > 0 if above else value >= 0)):
        raise ValueError(f"{text} is not a finite number {'above' if above else 'of at least'} 0")
    return value


def _host_port(text: str) -> str:
    split_host_port(text)
    return text


def _address(text: str) -> str:
    check_address(text)
    return text


def _device(text: str) -> str:
    if not _DEVICE.fullmatch(text):
        raise ValueError(f"{text!r} is not one of cpu, cuda and cuda:N")
    return text


def _not_empty(text: str) -> str:
    if not text.strip():
        raise ValueError("the value is empty")
    return text


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{text!r} is not a JSON object, {{...}}")
    return value


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is not true or false")
    return text == "true"


number = Kind(_number, "a number", "NUMBER", "{:g}".format)
share = Kind(_share, "a number in (0, 1]", "SHARE", repr)  # such as the share of the vision tokens to keep
not_negative = Kind(lambda text: _finite(text, above=False), "a finite number of at least 0", "SECONDS", "{:g}".format)
positive = Kind(lambda text: _finite(text, above=True), "a finite number above 0", "SECONDS", "{:g}".format)
milliseconds = Kind(  # the value is in seconds
    lambda text: _finite(text, above=False) / 1000,
    "a finite number of at least 0",
    "MS",
    lambda seconds: f"{seconds * 1000:g}",
)
host_port = Kind(_host_port, "an address HOST:PORT", "HOST:PORT")  # to listen on
address = Kind(_address, "an address HOST:PORT", "HOST:PORT")  # to connect to
device = Kind(_device, "one of cpu, cuda and cuda:N", "DEVICE")  # whether this machine has it is not checked
word = Kind(_not_empty, "a text", "TEXT")
path = Kind(lambda text: Path(_not_empty(text)), "a path", "FILE")
json_object = Kind(_json_object, "a JSON object", "JSON", json.dumps)
flag = Kind(_flag, "true or false", "BOOL", lambda value: "true" if value else "false")


def _pool_size(text: str) -> tuple[int, int]:
    least, _, most = text.partition("-")
    at_least_one = at_least(1)
    size = at_least_one.convert(least), at_least_one.convert(most or least)
    if size[0] > size[1]:
        raise ValueError(f"{text}: the first number must not be larger than the second")
    return size


any_text = Kind(str, "a text", "TEXT")
# A number, or N-M for one that changes: the least and the most of it.
pool_size = Kind(
    _pool_size, "N or N-M", "N[-M]", lambda size: f"{size[0]}" if size[0] == size[1] else f"{size[0]}-{size[1]}"
)
shares = Kind(
    lambda numbers: tuple(_share(part.strip()) for part in numbers.split(",")),
    "numbers in (0, 1] with commas between them",
    "R,R,...",
    lambda numbers: ",".join(f"{one:g}" for one in numbers),
)


def one_of(names: tuple[str, ...]) -> Kind[str]:
    """One of a few words."""

    def convert(text: str) -> str:
        if text not in names:
            raise ValueError(f"{text!r} is not one of {', '.join(names)}")
        return text

    return Kind(convert, f"one of {', '.join(names)}", "{" + ",".join(names) + "}")


def member_of(cls: type[EnumT]) -> Kind[EnumT]:
    """A member of an enumeration, by its name in lower case."""
    names = one_of(tuple(member.name.lower() for member in cls))
    return Kind(
        lambda text: cls[names.convert(text).upper()], names.accepted, names.metavar, lambda member: member.name.lower()
    )


def unless_empty(kind: Kind[ValueT]) -> Kind[ValueT | None]:
    """Reads an empty text as a value that is not given: a deployment may pass on a variable that is not set."""
    return Kind(
        lambda text: kind.convert(text) if text else None,
        kind.accepted,
        kind.metavar,
        lambda value: "" if value is None else kind.show(value),
    )


def add_option(
    group: argparse._ActionsContainer,
    name: str,
    kind: Kind[Any],
    sets: str,
    default: Any = None,  # noqa: ANN401 - of the kind
    *,
    alias: str | None = None,
    absent: str = "none",
    **more: Any,  # noqa: ANN401 - argparse's own
) -> None:
    """Add an option that takes a value; its help ends with the default.

    Args:
        group: the part of the help text.
        name: of the option, with its dashes.
        kind: of its values.
        sets: what it sets, as a sentence.
        default: the value without the option.
        alias: another name of the option.
        absent: what holds without the option and without a default.
        more: of argparse; a `metavar` replaces the kind's.
    """
    end = (
        "Required." if more.get("required") else f"Default: {absent if default in (None, []) else kind.show(default)}."
    )
    names = (name,) if alias is None else (name, alias)
    group.add_argument(*names, **{"metavar": kind.metavar, **more}, type=kind, default=default, help=f"{sets} {end}")
