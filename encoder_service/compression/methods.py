"""The table of methods, and how a request's names become a checked composition."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from visionsplit.errors import InvalidCompressionError
from visionsplit.parameters import Declared, listed, quoted, with_defaults

from encoder_service.compression.base import Composition, CompressionSpec
from encoder_service.compression.budgets import BUDGETS
from encoder_service.compression.scores import SCORES
from encoder_service.compression.selections import SELECTIONS


class Choice(Protocol):
    """Something a request may name."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def parameters(self) -> Declared: ...


@dataclass(frozen=True)
class Method:
    """A named composition."""

    name: str
    description: str
    score: str
    budget: str
    selection: str
    default_ratio: float | None = None  # used when a request gives none; None makes the ratio mandatory

    @property
    def parameters(self) -> Declared:
        """Every parameter of the three parts."""
        parts: tuple[Choice, ...] = (SCORES[self.score], BUDGETS[self.budget], SELECTIONS[self.selection])
        return {name: parameter for part in parts for name, parameter in part.parameters.items()}


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("none", "Keeps every token.", "local", "uniform", "top_k", default_ratio=1.0),
        Method(
            "globalcom2",
            "The thumbnail decides how many tokens each crop keeps, and with the crop which (arXiv 2501.05179).",
            "global_local",
            "softmax_sum",
            "top_k",
        ),
        Method(
            "uniform", "Evenly spread tokens, the same share of every tile (a baseline).", "local", "uniform", "even"
        ),
        Method("random", "Tokens by lot, the same share of every tile (a baseline).", "local", "uniform", "random"),
    )
}

_T = TypeVar("_T")


def compose(spec: CompressionSpec) -> Composition:
    """Resolve a request's names and check its numbers.

    Raises:
        InvalidCompressionError: an unknown name or parameter, a parameter out of range, or a ratio outside (0, 1];
            the text lists what exists.
    """
    method = _look_up("method", spec.method, METHODS)
    chosen = replace(
        method,
        score=method.score if spec.score is None else spec.score,
        budget=method.budget if spec.budget is None else spec.budget,
        selection=method.selection if spec.selection is None else spec.selection,
    )
    score = _look_up("score", chosen.score, SCORES)
    budget = _look_up("budget", chosen.budget, BUDGETS)
    selection = _look_up("selection", chosen.selection, SELECTIONS)
    return Composition(
        retention_ratio=_ratio(spec, method),
        layout=spec.layout,
        score=score,
        budget=budget,
        selection=selection,
        parameters=with_defaults(
            spec.parameters, chosen.parameters, owner="this composition", error=InvalidCompressionError
        ),
    )


def _look_up(kind: str, name: str, table: Mapping[str, _T]) -> _T:
    if name not in table:
        raise InvalidCompressionError(f"unknown {kind} {quoted(name)}; there are: {listed(table)}")
    return table[name]


def _ratio(spec: CompressionSpec, method: Method) -> float:
    ratio = method.default_ratio if spec.retention_ratio is None else spec.retention_ratio
    if ratio is None:
        raise InvalidCompressionError(f"method {method.name!r} needs a retention_ratio in (0, 1]")
    if not 0 < ratio <= 1:  # false for NaN too
        raise InvalidCompressionError(f"retention_ratio is {ratio}; it must be in (0, 1]")
    if method.name == "none" and ratio != 1:
        raise InvalidCompressionError(f"method 'none' keeps every token; retention_ratio {ratio} contradicts it")
    return ratio
