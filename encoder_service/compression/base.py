"""What a compression method is made of: a score, a budget and a selection, each replaceable by itself.

    score      what each token of a tile is worth          scores.py
    budget     how many tokens each crop may keep          budgets.py
    selection  which tokens those are                      selections.py
    method     a named triple of the three                 methods.py

`Plan` (plan.py) runs a composition on one image, tile by tile; `select` (`__init__`) on all its tiles at once.
"""

import enum
from dataclasses import dataclass, field
from typing import Protocol

import torch
from visionsplit.grid import Layout
from visionsplit.parameters import Declared, Parameters

from encoder_service.compression.geometry import Geometry


class TowerOutput(enum.Enum):
    """What a score needs from the vision tower beside the features."""

    CLS_LOGITS = "pre-softmax attention of [CLS] to each patch in the last layer, mean over heads"  # [T, P] float32


class Score(Protocol):
    """What the tokens of a crop are worth."""

    name: str
    description: str
    parameters: Declared
    needs: frozenset[TowerOutput]

    def guidance(self, thumbnail: torch.Tensor, geometry: Geometry) -> torch.Tensor | None:
        """What the thumbnail [P] says about every crop's cells, [crops, P] in the geometry's order, or None."""
        ...

    def rate(
        self, own: torch.Tensor, guidance: torch.Tensor | None, padding: torch.Tensor | None, parameters: Parameters
    ) -> torch.Tensor:
        """Worth of some crops' tokens, [c, P], from their own scores and the guidance, both [c, P].

        `padding` [c, P] marks the cells that show no image, None where there are none; what is said of them is ignored.
        """
        ...


class Budget(Protocol):
    """How the tokens are shared out among the crops."""

    name: str
    description: str
    parameters: Declared

    def ratios(
        self, thumbnail: torch.Tensor, geometry: Geometry, retention_ratio: float, parameters: Parameters
    ) -> list[float]:
        """The share of its valid tokens that each crop keeps, from the thumbnail's scores [P] on any device."""
        ...


class Selection(Protocol):
    """Which tokens a tile keeps."""

    name: str
    description: str
    parameters: Declared

    def order(self, worth: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Indices [t, P] int64 that put each tile's tokens, worth [t, P], into the order of picking.

        Cells worth minus infinity come last. A prefix of the order is the choice for a smaller budget.
        """
        ...


@dataclass(frozen=True)
class CompressionSpec:
    """A request for compression, by names. `compose` in methods.py resolves and checks it."""

    method: str
    retention_ratio: float | None = None  # (0, 1]; only the method "none" may do without
    layout: Layout = Layout.SPATIAL
    score: str | None = None
    budget: str | None = None
    selection: str | None = None
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True)
class Composition:
    """A checked method, ready to run."""

    retention_ratio: float  # (0, 1]
    layout: Layout
    score: Score
    budget: Budget
    selection: Selection
    parameters: Parameters

    @property
    def keeps_everything(self) -> bool:
        return self.retention_ratio == 1

    @property
    def needs(self) -> frozenset[TowerOutput]:
        """What the vision tower must deliver for this composition."""
        return frozenset() if self.keeps_everything else self.score.needs


@dataclass(frozen=True)
class Kept:
    """The tokens that one image keeps."""

    budgets: list[int]  # tokens per tile, thumbnail first
    ratios: list[float] | None  # share of each tile's valid tokens before truncation, None where nothing is pruned
    positions: list[torch.Tensor]  # per tile [budget, 3] int64: tile, row, column within the tile; in picking order
