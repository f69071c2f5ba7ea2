"""Tokens that represent as many others as possible: SCOPE (arXiv 2510.24214)."""

from types import MappingProxyType

import torch
from visionsplit.options.parameters import Parameters

from encoder_service.compression.candidates import Candidates
from encoder_service.compression.selections.greedy import GreedySelection, Progress, worth_power
from encoder_service.compression.selections.similarity import cosines, directions, proportional_weights


class CoverageSelection(GreedySelection):
    """Greedy set coverage, weighted by saliency.

    A token is covered by its highest cosine to a kept one, and by 0 before any is kept. Each pick has the highest gain
    in coverage, summed over the row's tokens, times its saliency to the power alpha (algorithm 1; alpha is 1 by default
    and is called `worth_power` here). Saliency is the composition's score: SCOPE's is [CLS] attention, which is used
    as it is; a score that may be negative is shifted until the row's lowest is 0.
    """

    name = "coverage"
    description = "Each next token adds most coverage of the others, times its score to a power (SCOPE)."
    parameters = MappingProxyType({"worth_power": worth_power(1)})

    def _start(self, candidates: Candidates, padding: torch.Tensor, most: int, parameters: Parameters) -> Progress:
        units = directions(candidates.features(), padding)  # [t, C, Dv]
        weight = proportional_weights(candidates.worth, padding, parameters["worth_power"])  # [t, C]
        # Padding is orthogonal to everything: it neither gains nor gives coverage.
        uncovered = cosines(units).clamp_(min=0.0)  # [t, C, C]
        kind = ChangedCoverage if units.device.type == "cpu" else WholeCoverage
        return kind(uncovered, weight)


class WholeCoverage(Progress):
    """Updates all pairs after each pick, without waiting for the device, which must be fast."""

    def __init__(self, uncovered: torch.Tensor, weight: torch.Tensor) -> None:
        self._uncovered = uncovered  # [t, C, C]: what each token (last) would gain if each (middle) were kept
        self._weight = weight  # [t, C]
        self._rows = torch.arange(len(uncovered), device=uncovered.device)  # [t]

    def values(self) -> torch.Tensor:
        return self._uncovered.sum(dim=2) * self._weight

    def add(self, picked: torch.Tensor) -> None:
        gained = self._uncovered[self._rows, picked]  # [t, C], a copy
        self._uncovered.sub_(gained[:, None]).clamp_(min=0.0)


class ChangedCoverage(Progress):
    """Updates only the tokens that a pick covers better, whose number decreases: on a CPU, tens of times faster.

    Their number decides the shape of the computation, so any other device would have to be waited for after each pick.
    """

    def __init__(self, uncovered: torch.Tensor, weight: torch.Tensor) -> None:
        self._uncovered = uncovered.unbind()  # of each row [C, C]: what each token (first) would gain by each (last)
        self._weight = weight  # [t, C]
        self._totals = uncovered.sum(dim=1, dtype=torch.float64)  # [t, C]

    def values(self) -> torch.Tensor:
        return self._totals * self._weight

    def add(self, picked: torch.Tensor) -> None:
        for uncovered, totals, pick in zip(self._uncovered, self._totals.unbind(), picked.unbind(), strict=True):
            gained = uncovered[:, pick]  # [C]
            changed = gained.nonzero().squeeze(1)  # [k]
            before = uncovered.index_select(0, changed)  # [k, C]
            after = (before - gained.index_select(0, changed)[:, None]).clamp_(min=0.0)
            uncovered.index_copy_(0, changed, after)
            totals.sub_(before.sub_(after).sum(dim=0, dtype=torch.float64))
