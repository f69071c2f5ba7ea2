"""The table of methods, and how a request's names become a checked composition."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from visionsplit.errors import InvalidCompressionError

from encoder_service.compression.base import Budget, Composition, CompressionSpec, Parameters, Score, Selection
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
    def parameters(self) -> Parameters: ...


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
    def parameters(self) -> Parameters:
        """Every parameter of the three parts with its default value."""
        parts: tuple[Choice, ...] = (SCORE[self.score], BUDGET[self.budget], SELECTION[self.selection])
        return {name: value for part in parts for name, value in part.parameters.items()}


SCORE: Mapping[str, Score] = {score.name: score for score in SCORES}
BUDGET: Mapping[str, Budget] = {budget.name: budget for budget in BUDGETS}
SELECTION: Mapping[str, Selection] = {selection.name: selection for selection in SELECTIONS}
METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("none", "Keeps every token.", "global_local", "uniform", "top_k", default_ratio=1.0),
        Method(
            "globalcom2",
            "The thumbnail decides how many tokens each crop keeps, and with the crop which (arXiv 2501.05179).",
            "global_local",
            "softmax_sum",
            "top_k",
        ),
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
    score = _look_up("score", chosen.score, SCORE)
    budget = _look_up("budget", chosen.budget, BUDGET)
    selection = _look_up("selection", chosen.selection, SELECTION)
    return Composition(
        retention_ratio=_ratio(spec, method),
        layout=spec.layout,
        score=score,
        budget=budget,
        selection=selection,
        parameters=_parameters(spec.parameters, chosen),
    )


def _look_up(kind: str, name: str, table: Mapping[str, _T]) -> _T:
    if name not in table:
        raise InvalidCompressionError(f"unknown {kind} {name!r}; there are: {_listed(table)}")
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


def _parameters(given: Parameters, method: Method) -> Parameters:
    known = method.parameters
    for name, value in given.items():
        if name not in known:
            raise InvalidCompressionError(f"unknown parameter {name!r}; this composition takes: {_listed(known)}")
        if not math.isfinite(value):
            raise InvalidCompressionError(f"parameter {name!r} is {value}; a finite number is needed")
    merged = {**known, **given}
    if merged.get("tau", 1.0) <= 0:
        raise InvalidCompressionError(f"parameter 'tau' is {merged['tau']}; it must be positive")
    if not 0 <= merged.get("alpha", 0.0) <= 1:
        raise InvalidCompressionError(f"parameter 'alpha' is {merged['alpha']}; it must be in [0, 1]")
    return merged


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
