"""What a compression method is made of: a score, a budget, a selection and a merging, each replaceable by itself.

    score      what each token of a tile is worth             scores.py
    budget     how many tokens each tile may keep             budgets/
    selection  which tokens those are                         selections/
    merging    what the kept tokens take over from the rest   mergings/
    method     a named combination of the four                methods.py

`Plan` (plan.py) runs a composition on one image, tile by tile; `select` (`__init__`) on all its tiles at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from visionsplit.options.layout import Layout
from visionsplit.options.parameters import Declared, Parameters

from encoder_service.compression.candidates import Candidates
from encoder_service.compression.features import TowerOutput
from encoder_service.compression.geometry import Geometry


class Part(ABC):
    """One of a method's four parts. The class attributes that a part does not set have the defaults given here."""

    name: str
    description: str
    parameters: Declared = MappingProxyType({})


class Score(Part):
    """What the tokens are worth. By default a tile's own scores, as they are."""

    source: TowerOutput | None = None  # a tile's own scores [t, P]; None where all tokens are alike
    whole_image: bool = False  # rates all tiles together, the thumbnail's too: nothing is sent before the last tile
    is_weight: bool = False  # worths are weights from 0 to about 1, to be multiplied with as they are

    def guidance(self, thumbnail: torch.Tensor, geometry: Geometry) -> torch.Tensor | None:
        """What the thumbnail [P] says about every crop's cells, [crops, P] in the geometry's order, or None."""
        return None

    def rate(
        self, own: torch.Tensor, guidance: torch.Tensor | None, padding: torch.Tensor | None, parameters: Parameters
    ) -> torch.Tensor:
        """Worth of some crops' tokens, [c, P], from their own scores and the guidance, both [c, P].

        With `whole_image` these are all tiles, thumbnail first, and there is no guidance.

        `padding` [c, P] marks the cells that show no image, None where there are none; what is said of them is ignored.
        """
        return own


class Budget(Part):
    """How the tokens are shared out among the tiles."""

    source: TowerOutput | None = None  # what the ratios are computed from, [P] or [T, P]
    whole_image: bool = False  # needs all tiles' `source`, not the thumbnail's alone: nothing is sent before the last
    pooled: bool = False  # the tiles' tokens compete for one budget, and not for one in each tile
    adaptive: bool = False  # finds the ratio itself; a request gives none

    @abstractmethod
    def ratios(
        self, source: torch.Tensor | None, geometry: Geometry, retention_ratio: float | None, parameters: Parameters
    ) -> list[float]:
        """The share of its valid tokens that each tile keeps, thumbnail first.

        `source` is the thumbnail's [P], with `whole_image` all tiles' [T, P], in raster order, on any device. The ratio
        is None for an adaptive budget only.
        """


@dataclass(frozen=True)
class Picks:
    """Which candidates are kept."""

    order: torch.Tensor  # [t, m] int64, columns of the candidates in picking order
    counts: Sequence[int]  # how many of each row's picks are kept, at most m
    extras: Sequence[int] | None = None  # how many of those, the last, give their places to a merging's extra tokens;
    # None: as many as the candidates say


class Selection(Part):
    """Which tokens are kept."""

    needs: frozenset[TowerOutput] = frozenset()  # of the vision tower, beside what the score needs
    nested: bool = False  # the choice for a smaller budget is a prefix of the one for a larger
    own_counts: bool = False  # may keep another number than the budget: nothing is sent before the last tile

    @abstractmethod
    def pick(self, candidates: Candidates, budgets: Sequence[int], parameters: Parameters) -> Picks:
        """The tokens to keep of each row; budgets are at most the row's count of valid cells.

        Unless `own_counts`, the counts are the budgets. Both include the candidates' `extras`.
        """


class Merging(Part):
    """What kept tokens take over from those that are dropped."""

    needs: frozenset[TowerOutput] = frozenset()
    extra: int = 0  # tokens beyond the budget that each row keeps, to stand for those that are dropped

    @abstractmethod
    def merge(self, candidates: Candidates, picks: Picks, parameters: Parameters) -> torch.Tensor:
        """Features of the kept tokens, row after row in picking order, [K, Dv]; the picks hold the extra ones."""


@dataclass(frozen=True)
class Composition:
    """A checked method, ready to run."""

    retention_ratio: float | None  # (0, 1]; None where the budget finds it
    layout: Layout
    score: Score
    budget: Budget
    selection: Selection
    merging: Merging | None  # None: kept tokens stay as they are
    parameters: Parameters
    quotas_only: bool = False

    @property
    def prunes(self) -> bool:
        """Whether tokens are scored and chosen at all."""
        return self.retention_ratio != 1 and not self.quotas_only

    @property
    def waits_for_image(self) -> bool:
        """Whether no token can be sent before the image's last tile is encoded."""
        if self.retention_ratio == 1:
            return False
        return self.budget.whole_image or (self.prunes and (self.selection.own_counts or self.score.whole_image))

    @property
    def nested(self) -> bool:
        """Whether each tile's tokens at a smaller ratio are a prefix of those at a larger, with the same features."""
        return self.selection.nested and self.merging is None

    @property
    def reads_text(self) -> bool:
        """Whether a text decides what is kept."""
        return TowerOutput.TEXT_RELEVANCE in self.needs

    @property
    def needs(self) -> frozenset[TowerOutput]:
        """What the towers must deliver for this composition."""
        if self.retention_ratio == 1:
            return frozenset()
        sources = {self.budget.source}
        if self.prunes:
            sources |= {self.score.source, *self.selection.needs}
            sources |= self.merging.needs if self.merging is not None else frozenset()
        return frozenset(source for source in sources if source is not None)


@dataclass(frozen=True)
class Kept:
    """The tokens that one image keeps."""

    budgets: list[int]  # tokens per tile, thumbnail first
    ratios: list[float] | None  # share of each tile's valid tokens before truncation, None where nothing is pruned
    positions: list[torch.Tensor]  # per tile [budget, 3] int64: tile, row, column within the tile; in picking order
    features: torch.Tensor  # [K, Dv], tile after tile
    quotas: list[int] | None  # tokens per tile that the method would keep, where only these were asked for
