"""Selections that look at each token separately: by its score, by its position, or at random."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from types import MappingProxyType

import torch
from visionsplit.options.parameters import Parameter, Parameters

from encoder_service.compression.base import Picks, Selection
from encoder_service.compression.candidates import Candidates

_GOLDEN = (math.sqrt(5) - 1) / 2


class _OrderedSelection(Selection):
    """Sorts all of a row's cells; every budget takes the first of them."""

    nested = True

    def pick(self, candidates: Candidates, budgets: Sequence[int], parameters: Parameters) -> Picks:
        return Picks(self._order(candidates.worth, parameters), budgets)

    @abstractmethod
    def _order(self, worth: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Indices [t, C] int64 of the cells, worth [t, C], in picking order; minus infinity comes last."""


class TopKSelection(_OrderedSelection):
    """The tokens of highest worth, best first."""

    name = "top_k"
    description = "The tokens of highest score, best first; of equals the first in raster order (GlobalCom2)."

    def _order(self, worth: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        return torch.sort(worth, dim=-1, descending=True, stable=True).indices


class EvenSelection(_OrderedSelection):
    """Tokens spread evenly over the tile's raster order, whatever they are worth.

    Picked in the order of the fractional parts of i times the golden ratio: the first k of them always divide the
    raster into steps of at most three lengths (the three-gap theorem), so every budget's choice is even.
    """

    name = "even"
    description = "Tokens evenly spread over the tile, whatever their score (a baseline)."

    def _order(self, worth: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        index = torch.arange(worth.shape[-1], dtype=torch.float64, device=worth.device)  # [P]
        keys = torch.frac(index * _GOLDEN).masked_fill(torch.isneginf(worth), math.inf)  # [t, P]
        return torch.sort(keys, dim=-1, stable=True).indices


class RandomSelection(_OrderedSelection):
    """Random tokens, whatever they are worth.

    The random numbers are a hash of the token's index, the score's bits and a seed instead of a generator's state: an
    image's tokens then do not depend on what else the service encoded, and equal requests give equal tokens.
    """

    name = "random"
    description = "Random tokens; equal requests draw equally, another seed differently (a baseline)."
    parameters = MappingProxyType({"seed": Parameter(0, minimum=0, maximum=2**31 - 1)})

    def _order(self, worth: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        index = torch.arange(worth.shape[-1], device=worth.device)  # [P]
        bits = worth.float().contiguous().view(torch.int32).long()  # [t, P]
        lots = _mix(_mix(bits + index * 0x9E3779B1) + int(parameters["seed"]) * 0x85EBCA6B)  # [t, P]
        return torch.sort(lots.masked_fill(torch.isneginf(worth), 2**32), dim=-1, stable=True).indices


def _mix(values: torch.Tensor) -> torch.Tensor:
    """A 32-bit integer hash, multiplying and shifting: each bit of the input moves about half of the output's."""
    for _ in range(2):
        values = values & 0xFFFFFFFF
        values = ((values >> 16) ^ values) * 0x45D9F3B
    values = values & 0xFFFFFFFF
    return (values >> 16) ^ values
