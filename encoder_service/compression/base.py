"""The interfaces of the four exchangeable parts of a compression method: score, budget, selection and merging.

    score      how valuable each token of a tile is              scores.py
    budget     how many tokens each tile may keep                budgets/
    selection  which tokens are kept                             selections/
    merging    how dropped tokens are merged into kept ones      mergings/
    method     a named combination of the four                   methods.py

`take_together` (together.py) runs compositions on the tiles of a batch; `select` (`__init__`) on one image.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from visionsplit.families.tower_outputs import TowerOutput
from visionsplit.options.layout import Layout
from visionsplit.options.parameters import Declared, Parameters

from encoder_service.compression.candidates import Candidates
from encoder_service.compression.geometry import Geometry, GeometryRules


class Part(ABC):
    """One of a method's four parts. The class attributes that a part does not set have the defaults given here."""

    name: str
    description: str
    parameters: Declared = MappingProxyType({})

    @property
    @abstractmethod
    def reads(self) -> frozenset[TowerOutput]:
        """The outputs of the towers that it needs besides the features."""


class Score(Part):
    """Rates the tokens, by default with the tile's scores."""

    source: TowerOutput | None = None  # the tile's scores [t, P]; None if all tokens are rated equal
    whole_image: bool = False  # rates all tiles together, so no token is sent before the last tile
    is_weight: bool = False  # the ratings are weights from 0 to about 1, which selections multiply by without rescaling

    @property
    def reads(self) -> frozenset[TowerOutput]:
        return frozenset() if self.source is None else frozenset({self.source})

    def guidance(self, thumbnail: torch.Tensor, geometry: Geometry) -> torch.Tensor | None:
        """The thumbnail's rating [P] mapped to every crop's cells, [crops, P] in the geometry's order, or None."""
        return None

    def rate(
        self, own: torch.Tensor, guidance: torch.Tensor | None, padding: torch.Tensor | None, parameters: Parameters
    ) -> torch.Tensor:
        """Rate some crops' tokens, [c, P], from their own scores and the guidance, both [c, P].

        With `whole_image` these are all tiles, thumbnail first, and there is no guidance.

        `padding` [c, P] marks the cells that show no image, None if there are none; their ratings are ignored.
        """
        return own


class Budget(Part):
    """Divides the tokens among the tiles."""

    source: TowerOutput | None = None  # the output that the ratios are computed from, [P] or [T, P]
    whole_image: bool = False  # needs `source` of all tiles, so no token is sent before the last tile
    pooled: bool = False  # the tokens of all tiles compete for one budget, instead of one budget per tile
    adaptive: bool = False  # computes the ratio itself; requests give none

    @property
    def reads(self) -> frozenset[TowerOutput]:
        return frozenset() if self.source is None else frozenset({self.source})

    def measure(
        self, source: torch.Tensor, geometry: Geometry, retention_ratio: float | None, parameters: Parameters
    ) -> torch.Tensor:
        """The few numbers that decide the ratios, [n] float64 on the source's device; only called with a `source`.

        Computed apart from the ratios, so that the numbers of all images of a batch are copied to the host together.

        Args:
            source: the thumbnail's [P], or with `whole_image` all tiles' [T, P], in raster order.
            retention_ratio: None only for an adaptive budget.
        """
        raise NotImplementedError(f"budget {self.name!r} reads no output of the vision tower")

    @abstractmethod
    def ratios(
        self, measured: Sequence[float], geometry: Geometry, retention_ratio: float | None, parameters: Parameters
    ) -> list[float]:
        """The share of its valid tokens that each tile keeps, thumbnail first; `measured` is empty without a source."""


@dataclass(frozen=True)
class Picks:
    """The candidates to keep."""

    order: torch.Tensor  # [t, m] int64, columns of the candidates in picking order
    counts: Sequence[int]  # how many of each row's picks are kept, at most m
    extras: Sequence[int] | None = None  # how many of the kept ones, the last, are replaced by a merging's extra
    # tokens; None: the number in the candidates

    def rows(self, first: int, stop: int) -> "Picks":
        """The picks of rows [first, stop)."""
        extras = None if self.extras is None else self.extras[first:stop]
        return Picks(self.order[first:stop], self.counts[first:stop], extras)


class Selection(Part):
    """Selects the tokens to keep."""

    needs: frozenset[TowerOutput] = frozenset()  # of the vision tower, beside what the score needs
    nested: bool = False  # the choice for a smaller budget is a prefix of the one for a larger
    own_counts: bool = False  # may keep more or fewer than the budget, so no token is sent before the last tile

    @property
    def reads(self) -> frozenset[TowerOutput]:
        return self.needs

    @abstractmethod
    def pick(self, candidates: Candidates, budgets: Sequence[int], parameters: Parameters) -> Picks:
        """Select tokens of each row; a row's budget is at most its number of valid cells.

        Unless `own_counts`, the counts are the budgets. Both include the candidates' `extras`.
        """


class Merging(Part):
    """Merges dropped tokens into kept ones."""

    needs: frozenset[TowerOutput] = frozenset()
    extra: int = 0  # tokens beyond the budget that each row keeps to represent the dropped ones

    @property
    def reads(self) -> frozenset[TowerOutput]:
        return self.needs

    @abstractmethod
    def merge(self, candidates: Candidates, picks: Picks, parameters: Parameters) -> torch.Tensor:
        """Features of the kept tokens, row after row in picking order, [K, Dv]; the picks include the extra tokens."""


@dataclass(frozen=True)
class Composition:
    """A validated method, ready to run."""

    retention_ratio: float | None  # (0, 1]; None if the budget computes it
    layout: Layout
    score: Score
    budget: Budget
    selection: Selection
    merging: Merging | None  # None leaves kept tokens unchanged
    parameters: Parameters
    quotas_only: bool = False
    whole_cell_regions: bool = True  # see `GeometryRules`

    @property
    def geometry_rules(self) -> GeometryRules:
        """How the grid's index maps are made."""
        return GeometryRules(self.layout == "reference", self.whole_cell_regions)

    @property
    def prunes(self) -> bool:
        """Whether tokens are rated and selected at all."""
        return self.retention_ratio != 1 and not self.quotas_only

    @property
    def waits_for_image(self) -> bool:
        """Whether no token can be sent before the image's last tile has been encoded."""
        if self.retention_ratio == 1:
            return False
        return self.budget.whole_image or (self.prunes and (self.selection.own_counts or self.score.whole_image))

    @property
    def nested(self) -> bool:
        """Whether each tile's tokens at a smaller ratio are a prefix of those at a larger, with the same features."""
        return self.selection.nested and self.merging is None

    @property
    def reads_text(self) -> bool:
        """Whether the result depends on a text."""
        return TowerOutput.TEXT_RELEVANCE in self.needs

    @property
    def needs(self) -> frozenset[TowerOutput]:
        """The outputs of the towers that this composition reads."""
        if self.retention_ratio == 1:
            return frozenset()
        parts: list[Part] = [self.budget]
        if self.prunes:
            parts += [self.score, self.selection, *([] if self.merging is None else [self.merging])]
        return frozenset[TowerOutput]().union(*(part.reads for part in parts))


@dataclass(frozen=True)
class Kept:
    """The tokens that one image keeps."""

    budgets: list[int]  # tokens per tile, thumbnail first
    ratios: list[float] | None  # share of each tile's valid tokens before truncation; None if nothing is pruned
    positions: list[torch.Tensor]  # per tile [budget, 3] int64: tile, row, column within the tile; in picking order
    features: torch.Tensor  # [K, Dv], tile after tile
    quotas: list[int] | None  # tokens per tile that the method would keep, if only these were requested
