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
        """The gain of adding each cell now, [t, C], which the caller may change; values for picked cells and padding
        are ignored."""

    @abstractmethod
    def add(self, picked: torch.Tensor) -> None:
        """Record one pick of each row, [t] int64."""


class GreedySelection(Selection):
    """Always adds the cell with the largest gain given the picks so far; of equals the first in raster order.

    All rows advance together, up to the largest budget, without waiting for the device.
    """

    nested = True

    def pick(self, candidates: Candidates, budgets: Sequence[int], parameters: Parameters) -> Picks:
        most = max(budgets, default=0)
        if not most:
            return Picks(candidates.worth.new_zeros(len(budgets), 0, dtype=torch.int64), budgets)
        padding = candidates.padding
        progress = self._start(candidates, padding, most, parameters)
        taken = padding.clone()  # [t, C]
        order = [self._next(progress, taken)]
        for _ in range(most - 1):
            progress.add(order[-1])
            order.append(self._next(progress, taken))
        return Picks(torch.stack(order, dim=1), budgets)

    def _next(self, progress: Progress, taken: torch.Tensor) -> torch.Tensor:
        """The next pick of each row, [t]; marks it as taken."""
        picked = progress.values().masked_fill_(taken, -torch.inf).argmax(dim=1)
        taken.scatter_(1, picked[:, None], True)
        return picked

    @abstractmethod
    def _start(self, candidates: Candidates, padding: torch.Tensor, most: int, parameters: Parameters) -> Progress:
        """The state before the first of at most `most` picks."""
