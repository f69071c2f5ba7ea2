"""The tokens from which a selection chooses."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from visionsplit.families.tower_outputs import TowerOutput


@dataclass(frozen=True)
class Candidates:
    """Rows of cells that compete with each other: some tiles of an image, or all its tiles in one row.

    There are t rows of C cells. A row's first `counts` cells show image, in raster order, tile after tile; the rest is
    padding.
    """

    worth: torch.Tensor  # [t, C] float32; minus infinity for padding
    counts: tuple[int, ...]  # valid cells of each row
    cells: torch.Tensor | None  # [t, C] int64: columns of the tower's rows; None if the order is the tower's
    tower_features: torch.Tensor  # [t, C, Dv] in the tower's order
    tower_outputs: Mapping[TowerOutput, torch.Tensor]  # each [t, C, ...] in the tower's order
    shares: tuple[float, ...] = ()  # share of each row's valid cells that the budget grants, before truncation
    extras: tuple[int, ...] = ()  # further picks of each row, which are replaced by a merging's extra tokens
    worth_is_weight: bool = False  # whether worths are weights already, scaled over more than this row
    adaptive: bool = False  # whether the shares were computed from the image instead of requested

    @property
    def padding(self) -> torch.Tensor:
        """[t, C] bool."""
        return torch.isneginf(self.worth)

    def features(self) -> torch.Tensor:
        """The cells' features, [t, C, Dv]."""
        return self._ordered(self.tower_features)

    def output(self, wanted: TowerOutput) -> torch.Tensor:
        """Another tower output for the cells, [t, C, ...]."""
        return self._ordered(self.tower_outputs[wanted])

    def _ordered(self, values: torch.Tensor) -> torch.Tensor:
        if self.cells is None:
            return values
        index = self.cells.reshape(*self.cells.shape, *[1] * (values.ndim - 2))  # [t, C, 1...]
        return values.gather(1, index.expand(-1, -1, *values.shape[2:]))


def stacked(parts: Sequence[Candidates], outputs: Collection[TowerOutput]) -> Candidates:
    """The rows of several candidates of equal width, with some of the tower's outputs; one part stays as it is."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return Candidates(
        torch.cat([part.worth for part in parts]),
        tuple(count for part in parts for count in part.counts),
        _stacked_cells(parts),
        torch.cat([part.tower_features for part in parts]),
        {output: torch.cat([part.tower_outputs[output] for part in parts]) for output in outputs},
        shares=tuple(share for part in parts for share in part.shares),
        extras=tuple(extra for part in parts for extra in part.extras),
        worth_is_weight=first.worth_is_weight,
        adaptive=first.adaptive,
    )


def _stacked_cells(parts: Sequence[Candidates]) -> torch.Tensor | None:
    if all(part.cells is None for part in parts):
        return None
    columns = torch.arange(parts[0].worth.shape[1], device=parts[0].worth.device)  # [C]
    return torch.cat([columns.expand_as(part.worth) if part.cells is None else part.cells for part in parts])
