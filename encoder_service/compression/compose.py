"""Resolves the names of a request to a validated composition."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from visionsplit.errors import InvalidCompressionError
from visionsplit.options.compression import DEFAULT_RATIO, KEEP_ALL, Compression
from visionsplit.options.parameters import listed, quoted, with_defaults

from encoder_service.compression.base import Budget, Composition, Score
from encoder_service.compression.budgets import BUDGETS
from encoder_service.compression.features import TowerOutput
from encoder_service.compression.mergings import MERGINGS
from encoder_service.compression.methods import METHODS, NO_MERGING, Method, listed_methods, listed_scores
from encoder_service.compression.scores import SCORES
from encoder_service.compression.selections import SELECTIONS

_T = TypeVar("_T")


def compose(asked: Compression, *, text_tower: bool = True) -> Composition:
    """Resolve a request's names and check its numbers.

    Args:
        asked: the requested options.
        text_tower: whether error messages list methods that read a text.

    Raises:
        InvalidCompressionError: an unknown name or parameter, a parameter out of range, a ratio outside (0, 1], or
            parts that cannot be combined; the message lists the alternatives.
    """
    chosen = _chosen(asked, text_tower=text_tower)
    _check_name("score", chosen.score, SCORES, listed_scores(text_tower=text_tower))
    score = SCORES[chosen.score]
    budget = _look_up("budget", chosen.budget, BUDGETS)
    selection = _look_up("selection", chosen.selection, SELECTIONS)
    merging = None
    if chosen.merging != NO_MERGING:
        _check_name("merging", chosen.merging, MERGINGS, [NO_MERGING, *MERGINGS])
        merging = MERGINGS[chosen.merging]
    ratio = _ratio(asked, chosen, budget)
    _check_guidance(asked, score)
    if asked.quotas_only and (budget.pooled or selection.own_counts):
        raise InvalidCompressionError(
            f"budget {budget.name!r} with selection {selection.name!r} has no quotas: how many tokens a tile keeps "
            "comes out of the choice itself"
        )
    if budget.pooled and selection.own_counts:
        raise InvalidCompressionError(f"selection {selection.name!r} needs a budget for each tile, not {budget.name!r}")
    return Composition(
        retention_ratio=ratio,
        layout=asked.layout,
        score=score,
        budget=budget,
        selection=selection,
        merging=merging,
        parameters=with_defaults(
            asked.parameters, chosen.parameters, owner="this composition", error=InvalidCompressionError
        ),
        quotas_only=asked.quotas_only,
    )


def _chosen(asked: Compression, *, text_tower: bool) -> Method:
    """The method with the parts that the request replaces; their names have not been checked."""
    _check_name("method", asked.method, METHODS, listed_methods(text_tower=text_tower))
    method = METHODS[asked.method]
    budget = method.budget if asked.budget is None else asked.budget
    if asked.budget is None and asked.retention_ratio is None and method.budget_without_ratio is not None:
        budget = method.budget_without_ratio
    return replace(
        method,
        score=method.score if asked.score is None else asked.score,
        budget=budget,
        selection=method.selection if asked.selection is None else asked.selection,
        merging=method.merging if asked.merging is None else asked.merging,
    )


def _look_up(kind: str, name: str, table: Mapping[str, _T]) -> _T:
    _check_name(kind, name, table, table)
    return table[name]


def _check_name(kind: str, name: str, known: Collection[str], shown: Iterable[str]) -> None:
    if name not in known:
        raise InvalidCompressionError(f"unknown {kind} {quoted(name)}; there are: {listed(shown)}")


def _check_guidance(asked: Compression, score: Score) -> None:
    """Refuse a text that no score would read, and one without words."""
    if asked.guidance is None:
        return
    if score.source is not TowerOutput.TEXT_RELEVANCE:
        reading = [name for name, other in SCORES.items() if other.source is TowerOutput.TEXT_RELEVANCE]
        raise InvalidCompressionError(
            f"score {score.name!r} looks at no text; guidance is for the scores: {listed(reading)}"
        )
    if not asked.guidance.strip():
        raise InvalidCompressionError("guidance is empty; it is the text that the kept tokens are to be relevant to")


def _ratio(asked: Compression, method: Method, budget: Budget) -> float | None:
    ratio = asked.retention_ratio
    if budget.adaptive:
        if ratio is not None and ratio != 1:
            raise InvalidCompressionError(f"budget {budget.name!r} finds the retention_ratio itself; give none")
        return 1.0 if method.name == KEEP_ALL else ratio
    if ratio is None:
        return 1.0 if method.name == KEEP_ALL else DEFAULT_RATIO
    if not 0 < ratio <= 1:  # also catches NaN
        raise InvalidCompressionError(f"retention_ratio is {ratio}; it must be in (0, 1]")
    if method.name == KEEP_ALL and ratio != 1:
        raise InvalidCompressionError(f"method {KEEP_ALL!r} keeps every token; retention_ratio {ratio} contradicts it")
    return ratio
