"""Greedy selection, one token of every row at a time."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from visionsplit.options.parameters import Parameter, Parameters

from encoder_service.compression.base import Picks, Selection
from encoder_service.compression.candidates import Candidates


def worth_power(default: float) -> Parameter:
    """The exponent of the score's influence: 0 ignores the score, 1 uses it in proportion."""
    return Parameter(default, minimum=0, maximum=8)


class Progress(ABC):
    """The state of a greedy selection for t rows of C cells after some picks."""

    @abstractmethod
    def values(self) -> torch.Tensor:
        """The gain of adding each cell now, [t, C]; values for picked cells and padding are ignored."""

    @abstractmethod
    def add(self, picked: torch.Tensor) -> None:
        """Record one pick of each row, [t] int64."""


class GreedySelection(Selection):
    """Always adds the cell with the largest gain given the picks so far; of equals the first in raster order.

    All rows advance together, up to the largest budget, without waiting for the device.
    """

    nested = True

    def pick(self, candidates: Candidates, budgets: Sequence[int], parameters: Parameters) -> Picks:
        tiles = candidates.worth.shape[0]
        most = max(budgets, default=0)
        order = torch.zeros(tiles, most, dtype=torch.int64, device=candidates.worth.device)
        if not most:
            return Picks(order, budgets)
        padding = candidates.padding
        progress = self._start(candidates, padding, most, parameters)
        taken = padding.clone()  # [t, C]
        for number in range(most):
            picked = progress.values().masked_fill(taken, -torch.inf).argmax(dim=1)  # [t]
            order[:, number] = picked
            taken.scatter_(1, picked[:, None], True)
            progress.add(picked)
        return Picks(order, budgets)

    @abstractmethod
    def _start(self, candidates: Candidates, padding: torch.Tensor, most: int, parameters: Parameters) -> Progress:
        """The state before the first of at most `most` picks."""
