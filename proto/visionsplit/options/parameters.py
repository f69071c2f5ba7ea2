"""Numeric parameters that a request may set: their defaults, their ranges, and the check of what was given."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from visionsplit.errors import InvalidRequestError

Parameters = Mapping[str, float]  # values, by name

_QUOTED_LENGTH = 64  # characters


@dataclass(frozen=True)
class Parameter:
    """A number that a request may set."""

    default: float
    minimum: float
    maximum: float
    above_minimum: bool = False  # the minimum itself is not allowed
    whole: bool = False  # only whole numbers are allowed

    def allows(self, value: float) -> bool:
        """Whether a value is finite, in range, and whole where it must be."""
        if not math.isfinite(value) or (self.above_minimum and value == self.minimum):
            return False
        if self.whole and value != int(value):
            return False
        return self.minimum <= value <= self.maximum

    def __str__(self) -> str:
        """The range as an interval."""
        opening = "(" if self.above_minimum else "["
        closing = ")" if math.isinf(self.maximum) else "]"
        kind = "the whole numbers of " if self.whole else ""
        return f"{kind}{opening}{self.minimum:g}, {self.maximum:g}{closing}"


Declared = Mapping[str, Parameter]  # by name


def with_defaults(
    given: Parameters, declared: Declared, *, owner: str, error: type[InvalidRequestError]
) -> dict[str, float]:
    """The declared parameters' values: those given, else the defaults.

    Args:
        given: a request's values.
        declared: what may be given.
        owner: what takes the parameters, for the error's text: "this composition".
        error: the class to raise.

    Raises:
        InvalidRequestError: as `error`: an unknown name or a value out of range; the text lists what exists.
    """
    for name, value in given.items():
        if name not in declared:
            raise error(f"unknown parameter {quoted(name)}; {owner} takes: {listed(declared)}")
        if not declared[name].allows(value):
            raise error(f"parameter {name!r} is {value}; it must be in {declared[name]}")
    return {name: parameter.default for name, parameter in declared.items()} | dict(given)


def check_numbers(parameters: Parameters) -> None:
    """Raises TypeError unless every value is a number; what its range is, the owner of the parameter knows."""
    for name, value in parameters.items():
        if not isinstance(value, int | float):
            raise TypeError(f"parameter {name!r} is {value!r}; a number is needed")


def quoted(name: str) -> str:
    """A caller's word in an error, cut to a readable length."""
    return repr(name if len(name) <= _QUOTED_LENGTH else f"{name[:_QUOTED_LENGTH]}…")


def listed(names: Iterable[str]) -> str:
    """Names in an error's text."""
    return ", ".join(sorted(names)) or "none"
