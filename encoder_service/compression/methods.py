"""The table of methods: named combinations of a score, a budget, a selection and a merging."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from visionsplit.families.tower_outputs import TowerOutput
from visionsplit.options.compression import KEEP_ALL
from visionsplit.options.parameters import Declared

from encoder_service.compression.base import Part
from encoder_service.compression.budgets import BUDGETS
from encoder_service.compression.mergings import MERGINGS
from encoder_service.compression.scores import SCORES
from encoder_service.compression.selections import SELECTIONS

_P = TypeVar("_P", bound=Part)

NO_MERGING = "none"  # kept tokens stay as they are


class Choice(Protocol):
    """A named choice that a request may make."""

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
    budget_without_ratio: str | None = None  # an adaptive budget, used when a request gives no ratio and no budget
    presets: Mapping[str, float] = field(default_factory=dict)  # the method's defaults for its parts' parameters

    @property
    def parts(self) -> list[Part]:
        """The parts that it names."""
        parts: list[Part] = [SCORES[self.score], BUDGETS[self.budget], SELECTIONS[self.selection]]
        return parts if self.merging == NO_MERGING else [*parts, MERGINGS[self.merging]]

    @property
    def parameters(self) -> Declared:
        """Every parameter of the method's parts."""
        declared = {name: parameter for part in self.parts for name, parameter in part.parameters.items()}
        own = {name: replace(declared[name], default=self.presets[name]) for name in declared.keys() & self.presets}
        return declared | own


_ALL = (
    Method(KEEP_ALL, "Keeps every token.", "flat", "uniform", "top_k"),
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
    Method(
        "prumerge",
        "The best tokens by [CLS] affinity, merged with their like; finds its own ratio if none (arXiv 2403.15388).",
        "cls_affinity",
        "uniform",
        "top_k",
        "prumerge",
        budget_without_ratio="outliers",
    ),
    Method(
        "prumerge+",
        "PruMerge and as many evenly spread tokens again, beyond the ratio (arXiv 2403.15388).",
        "cls_affinity",
        "uniform",
        "spatial_samples",
        "prumerge",
        budget_without_ratio="outliers",
    ),
    Method(
        "visionzip",
        "The best tokens by [CLS] attention, and evenly spread ones that take in the others (arXiv 2412.04467).",
        "cls_attention",
        "uniform",
        "dominant_contextual",
        "contextual",
    ),
    Method(
        "hired",
        "The thumbnail's early [CLS] attention divides a total among the tiles, the later chooses (arXiv 2408.10945).",
        "cls_attention",
        "attention_share",
        "top_k",
    ),
    Method(
        "divprune",
        "The image's tokens that lie farthest apart by cosine, wherever they are (arXiv 2503.02175).",
        "flat",
        "pooled",
        "max_min",
    ),
    Method(
        "cenprune",
        "Each tile's tokens farthest apart after centring, the distinctive ones first (arXiv 2608.30263).",
        "flat",
        "uniform",
        "centred_max_min",
    ),
    Method(
        "cdpruner",
        "Each tile's tokens that are relevant to the prompt and span most directions (arXiv 2506.10967).",
        "prompt_relevance",
        "uniform",
        "determinantal",
    ),
    Method(
        "scope",
        "Each tile's tokens that cover most of the others, times [CLS] attention (arXiv 2510.24214).",
        "cls_attention",
        "uniform",
        "coverage",
    ),
    Method(
        "globalcom2-diverse",
        "GlobalCom2's budgets and scores; in each tile, tokens of high score that span most directions (our own).",
        "global_local",
        "softmax_sum",
        "determinantal",
        presets={"worth_power": 0.5},  # chosen on 160 of the held-out scenes: docs/accuracy.md
    ),
    Method(
        "globalcom2-cover",
        "GlobalCom2's budgets; in each tile, tokens that cover most of the others, times [CLS] attention (our own).",
        "cls_attention",
        "softmax_sum",
        "coverage",
    ),
    Method("uniform", "Evenly spread tokens, the same share of every tile (a baseline).", "flat", "uniform", "even"),
    Method("random", "Random tokens, the same share of every tile (a baseline).", "local", "uniform", "random"),
)
METHODS: Mapping[str, Method] = {method.name: method for method in _ALL}


def offered(parts: Mapping[str, _P], outputs: frozenset[TowerOutput]) -> Mapping[str, _P]:
    """The parts of a table that an encoder offers whose towers compute `outputs`."""
    return {name: part for name, part in parts.items() if part.reads <= outputs}


def listed_methods(outputs: frozenset[TowerOutput]) -> Mapping[str, Method]:
    """The methods that an encoder offers whose towers compute `outputs`."""
    return {
        name: method
        for name, method in METHODS.items()
        if name == KEEP_ALL or all(part.reads <= outputs for part in method.parts)
    }
