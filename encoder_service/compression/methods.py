"""The table of methods: named combinations of a score, a budget, a selection and a merging."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from visionsplit.parameters import Declared

from encoder_service.compression.budgets import BUDGETS
from encoder_service.compression.mergings import MERGINGS
from encoder_service.compression.scores import SCORES
from encoder_service.compression.selections import SELECTIONS

NO_MERGING = "none"  # kept tokens stay as they are


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
    merging: str = NO_MERGING
    default_ratio: float | None = None  # used when a request gives none
    budget_without_ratio: str | None = None  # an adaptive budget, used when a request gives no ratio and no budget

    @property
    def parameters(self) -> Declared:
        """Every parameter of its parts."""
        parts: list[Choice] = [SCORES[self.score], BUDGETS[self.budget], SELECTIONS[self.selection]]
        if self.merging != NO_MERGING:
            parts.append(MERGINGS[self.merging])
        return {name: parameter for part in parts for name, parameter in part.parameters.items()}


_ALL = (
    Method("none", "Keeps every token.", "flat", "uniform", "top_k", default_ratio=1.0),
    Method(
        "globalcom2",
        "The thumbnail decides how many tokens each crop keeps, and with the crop which (arXiv 2501.05179).",
        "global_local",
        "softmax_sum",
        "top_k",
    ),
    Method(
        "fastervlm",
        "The same share of every tile, by [CLS] attention (arXiv 2412.01818).",
        "cls_attention",
        "uniform",
        "top_k",
    ),
    Method("uniform", "Evenly spread tokens, the same share of every tile (a baseline).", "flat", "uniform", "even"),
    Method("random", "Tokens by lot, the same share of every tile (a baseline).", "local", "uniform", "random"),
)
METHODS: Mapping[str, Method] = {method.name: method for method in _ALL}
