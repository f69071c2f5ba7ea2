"""Tokens with high scores that span a large volume: greedy inference of a determinantal point process.

The kernel is worth_i * cosine_ij * worth_j, as in CDPruner (arXiv 2506.10967), where worth is the relevance to the
prompt; with a worth from the image alone it needs no text.
"""

from collections.abc import Sequence
from types import MappingProxyType

import torch
from visionsplit.options.parameters import Parameters

from encoder_service.compression.base import Picks
from encoder_service.compression.candidates import Candidates
from encoder_service.compression.selections.fused import fused_pick
from encoder_service.compression.selections.greedy import GreedySelection, Progress, worth_power
from encoder_service.compression.selections.similarity import (
    cosines,
    directions,
    distinctiveness,
    residuals,
    weights,
)

_NOTHING_LEFT = 1e-5  # of a direction's squared length, which is 1; smaller values are rounding errors


class DeterminantalSelection(GreedySelection):
    """Each pick maximises the determinant of the kept tokens' kernel (Chen et al., arXiv 1709.05135, algorithm 1).

    Once the kept tokens span all others, up to rounding, determinants no longer distinguish the rest, which follows by
    worth.
    """

    name = "determinantal"
    description = "Each next token widens most the volume of the kept ones' directions, scaled by score (a DPP)."
    parameters = MappingProxyType({"worth_power": worth_power(1)})

    def pick(self, candidates: Candidates, budgets: Sequence[int], parameters: Parameters) -> Picks:
        fused = fused_pick(candidates.worth.device)
        if fused is None or not any(budgets):
            return super().pick(candidates, budgets, parameters)
        padding = candidates.padding
        vectors, worth = self._vectors(candidates, padding), self._worth(candidates, padding, parameters)
        return Picks(fused(vectors, worth, padding, budgets, _NOTHING_LEFT), budgets)

    def _start(self, candidates: Candidates, padding: torch.Tensor, most: int, parameters: Parameters) -> Progress:
        return _Volume(self._units(candidates, padding), self._worth(candidates, padding, parameters), most)

    def _vectors(self, candidates: Candidates, padding: torch.Tensor) -> torch.Tensor:
        """The cells' vectors whose directions are compared, [t, C, Dv]."""
        return candidates.features()

    def _units(self, candidates: Candidates, padding: torch.Tensor) -> torch.Tensor:
        """The same of unit length, [t, C, Dv] float32, zero for padding."""
        return directions(self._vectors(candidates, padding), padding)

    def _worth(self, candidates: Candidates, padding: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """[t, C] float32, from 0 to 1."""
        return weights(candidates, parameters["worth_power"])


class CentredDeterminantalSelection(DeterminantalSelection):
    """The same with residuals from the row's mean token, and each token's distinctiveness as another factor of worth.

    Cen-Prune (arXiv 2608.30263), equation 8, whose worth is CDPruner's relevance.
    """

    name = "centred_determinantal"
    description = "determinantal after subtracting the mean token, preferring tokens unlike the rest (Cen-Prune)."

    def _vectors(self, candidates: Candidates, padding: torch.Tensor) -> torch.Tensor:
        return residuals(candidates.features(), padding)

    def _units(self, candidates: Candidates, padding: torch.Tensor) -> torch.Tensor:
        return self._vectors(candidates, padding)

    def _worth(self, candidates: Candidates, padding: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        return super()._worth(candidates, padding, parameters) * distinctiveness(candidates.features(), padding)


class _Volume(Progress):
    """The part of each token's direction outside the span of the picks: an incomplete Cholesky decomposition.

    Worths are left out of it, since they only scale determinants: the kernel's grows by (worth_i * length_i)^2, where
    length_i is the remaining part of token i's direction. So directions distinguish even tokens of very small worth.
    """

    def __init__(self, units: torch.Tensor, worth: torch.Tensor, most: int) -> None:
        tiles, cells, _ = units.shape
        self._cosines = cosines(units)  # [t, C, C]
        self._worth = worth  # [t, C], in [0, 1]
        self._last = worth - 2.0  # [t, C], the values of tokens in the span of the picks: below all others
        self._left = units.square().sum(dim=2).round()  # [t, C]: squared length; exactly 1, so that equals stay equal
        self._columns = units.new_empty(tiles, most, cells)
        self._count = 0
        self._rows = torch.arange(tiles, device=units.device)  # [t]

    def values(self) -> torch.Tensor:
        gains = self._left.sqrt().mul_(self._worth)  # [t, C]; NaN where rounding has left less than nothing
        return torch.where(self._left > _NOTHING_LEFT, gains, self._last)

    def add(self, picked: torch.Tensor) -> None:
        rows = self._rows
        left = self._left[rows, picked][:, None]  # [t, 1]
        earlier = self._columns[:, : self._count]  # [t, k, C]
        beyond = self._cosines[rows, picked]  # [t, C], a copy
        if self._count:
            # Row by row, for the reason given in `cosines`.
            for toward, before, own in zip(beyond, earlier.transpose(1, 2), earlier[rows, :, picked], strict=True):
                toward.addmv_(before, own, alpha=-1.0)
        column = torch.where(left > _NOTHING_LEFT, beyond / left.clamp(min=_NOTHING_LEFT).sqrt(), 0.0)
        self._columns[:, self._count] = column
        self._count += 1
        self._left = self._left - column.square()
