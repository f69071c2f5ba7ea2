"""Resolves the names of a request to a validated composition."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from visionsplit.errors import InvalidCompressionError
from visionsplit.families.tower_outputs import FROM_TEXT, TowerOutput
from visionsplit.options.compression import DEFAULT_RATIO, KEEP_ALL, Compression
from visionsplit.options.layout import LAYOUTS, Layout
from visionsplit.options.parameters import listed, quoted, with_defaults

from encoder_service.compression.base import Budget, Composition, Part, Score
from encoder_service.compression.budgets import BUDGETS
from encoder_service.compression.mergings import MERGINGS
from encoder_service.compression.methods import METHODS, NO_MERGING, Method, listed_methods, offered
from encoder_service.compression.scores import SCORES
from encoder_service.compression.selections import SELECTIONS

_P = TypeVar("_P", bound=Part)


@dataclass(frozen=True)
class Abilities:
    """What an encoder can do; by default everything that exists, for LLaVA-NeXT."""

    outputs: frozenset[TowerOutput] = frozenset(TowerOutput)  # what the checkpoint's towers can compute
    layouts: tuple[Layout, ...] = LAYOUTS
    whole_cell_regions: bool = True  # see `GeometryRules`


_EVERYTHING = Abilities()


def compose(asked: Compression, abilities: Abilities = _EVERYTHING) -> Composition:
    """Resolve a request's names and check its numbers.

    Args:
        asked: the requested options.
        abilities: of the encoder.

    Raises:
        InvalidCompressionError: an unknown name or parameter, a parameter out of range, a ratio outside (0, 1], parts
            that cannot be combined, or that need what the vision tower cannot compute; the message lists the
            alternatives.
    """
    outputs = abilities.outputs
    if asked.layout not in abilities.layouts:
        raise InvalidCompressionError(
            f"layout {asked.layout!r} is not defined for this checkpoint; there is: {', '.join(abilities.layouts)}"
        )
    chosen = _chosen(asked, outputs)
    score = _look_up("score", chosen.score, SCORES, outputs)
    budget = _look_up("budget", chosen.budget, BUDGETS, outputs)
    selection = _look_up("selection", chosen.selection, SELECTIONS, outputs)
    merging = None
    if chosen.merging != NO_MERGING:
        _check_name("merging", chosen.merging, MERGINGS, [NO_MERGING, *offered(MERGINGS, outputs)])
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
    composition = Composition(
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
        whole_cell_regions=abilities.whole_cell_regions,
    )
    parts: dict[str, tuple[Part | None, Mapping[str, Part]]] = {
        "score": (score, SCORES),
        "budget": (budget, BUDGETS),
        "selection": (selection, SELECTIONS),
        "merging": (merging, MERGINGS),
    }
    for kind, (part, table) in parts.items():
        # Without a text tower, the service says itself what a text would need.
        if part is not None and part.reads & composition.needs - outputs - FROM_TEXT:
            raise InvalidCompressionError(
                f"{kind} {part.name!r} of method {asked.method!r} reads the attention of [CLS], which the vision tower "
                f"of this checkpoint does not have; there are the methods: {listed(listed_methods(outputs))}; "
                f"{kind}s: {listed(offered(table, outputs))}"
            )
    return composition


def _chosen(asked: Compression, outputs: frozenset[TowerOutput]) -> Method:
    """The method with the parts that the request replaces; their names have not been checked."""
    _check_name("method", asked.method, METHODS, listed_methods(outputs))
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


def _look_up(kind: str, name: str, table: Mapping[str, _P], outputs: frozenset[TowerOutput]) -> _P:
    _check_name(kind, name, table, offered(table, outputs))
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
