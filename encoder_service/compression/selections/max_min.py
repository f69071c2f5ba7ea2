"""Tokens as far apart as possible: DivPrune (arXiv 2503.02175) and Cen-Prune around it (arXiv 2608.30263)."""

from types import MappingProxyType

import torch
from visionsplit.options.parameters import Parameters

from encoder_service.compression.candidates import Candidates
from encoder_service.compression.selections.greedy import GreedySelection, Progress, worth_power
from encoder_service.compression.selections.similarity import (
    cosines,
    directions,
    distinctiveness,
    residuals,
    weights,
)


class MaxMinSelection(GreedySelection):
    """Greedy max-min diversity by cosine distance.

    The first token is the one whose nearest other token is farthest, as in DivPrune's published code; each further one
    is the one whose nearest kept token is farthest. That code may pick a token twice if only copies of kept ones are
    left; this one does not. With `worth_power` above 0 distances are multiplied by the scaled score to that power,
    which DivPrune does not do.
    """

    name = "max_min"
    description = "Each next token is the one whose nearest kept token is farthest by cosine (DivPrune)."
    parameters = MappingProxyType({"worth_power": worth_power(0)})

    def _start(self, candidates: Candidates, padding: torch.Tensor, most: int, parameters: Parameters) -> Progress:
        units = directions(candidates.features(), padding)
        return _Distances(units, padding, weights(candidates, parameters["worth_power"]), None)


class CentredMaxMinSelection(MaxMinSelection):
    """The same between residuals from the row's mean token, times the tokens' distinctiveness (Cen-Prune, section 4.3).

    Distinctiveness weights every pick but the first, which the paper leaves to the original selection. A row is a tile,
    as in the paper for LLaVA-NeXT, or with a pooled budget the image.
    """

    name = "centred_max_min"
    description = "max_min after subtracting the mean token, preferring tokens unlike the rest (Cen-Prune)."

    def _start(self, candidates: Candidates, padding: torch.Tensor, most: int, parameters: Parameters) -> Progress:
        features = candidates.features()
        weight = weights(candidates, parameters["worth_power"])
        return _Distances(residuals(features, padding), padding, weight, distinctiveness(features, padding))


class _Distances(Progress):
    """The distance of every cell to the nearest picked one."""

    def __init__(
        self, units: torch.Tensor, padding: torch.Tensor, weight: torch.Tensor, preference: torch.Tensor | None
    ) -> None:
        self._distances = cosines(units).neg_().add_(1.0)  # [t, C, C]
        self._distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        self._distances.masked_fill_(padding[:, None], torch.inf)
        self._rows = torch.arange(len(units), device=units.device)  # [t]
        self._weight = weight  # [t, C]
        self._preference = preference  # [t, C], from the second pick on
        self._nearest: torch.Tensor | None = None  # [t, C]

    def values(self) -> torch.Tensor:
        if self._nearest is None:
            return self._distances.amin(dim=2) * self._weight
        return self._nearest * self._weight

    def add(self, picked: torch.Tensor) -> None:
        distances = self._distances[self._rows, picked]  # [t, C]
        if self._nearest is None:
            self._nearest = distances
            if self._preference is not None:
                self._weight = self._weight * self._preference
        else:
            self._nearest = torch.minimum(self._nearest, distances)
