"""Budgets of the crops computed from the thumbnail. The thumbnail itself keeps the retention ratio.

Source: GlobalCom2 (arXiv 2501.05179), section "retention ratio per crop" and the ablation on it, with the constants,
the truncation and the clip (without redistribution) of the published code.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from types import MappingProxyType

import torch
from visionsplit.families.tower_outputs import TowerOutput
from visionsplit.options.parameters import Parameter, Parameters

from encoder_service.compression.base import Budget
from encoder_service.compression.geometry import Geometry

_EPSILON = 1e-8  # from the published code; it decides between 359 and 360 tokens where the softmax saturates
_TAU = Parameter(10.0, minimum=0, maximum=math.inf, above_minimum=True)


class _SoftmaxBudget(Budget):
    """A softmax at temperature tau over one weight per crop."""

    parameters = MappingProxyType({"tau": _TAU})
    source = TowerOutput.SALIENCE

    def measure(
        self, source: torch.Tensor, geometry: Geometry, retention_ratio: float | None, parameters: Parameters
    ) -> torch.Tensor:
        assert retention_ratio is not None, "compose sees to it"
        return self._weights(source, geometry, retention_ratio)

    def ratios(
        self, measured: Sequence[float], geometry: Geometry, retention_ratio: float | None, parameters: Parameters
    ) -> list[float]:
        assert retention_ratio is not None, "compose sees to it"
        return [retention_ratio, *softmax_ratios(measured, retention_ratio, parameters["tau"])]

    @abstractmethod
    def _weights(self, thumbnail: torch.Tensor, geometry: Geometry, retention_ratio: float) -> torch.Tensor:
        """The weight of each crop, [crops] float64, from the thumbnail's scores [P]."""


class SoftmaxSumBudget(_SoftmaxBudget):
    """A softmax over the sums of the thumbnail's scores in each crop's region."""

    name = "softmax_sum"
    description = "Softmax at temperature tau over each crop's sum of thumbnail scores (GlobalCom2)."

    def _weights(self, thumbnail: torch.Tensor, geometry: Geometry, retention_ratio: float) -> torch.Tensor:
        return torch.mv(geometry.region_weights, thumbnail.double())  # [crops]


class SoftmaxMaxBudget(_SoftmaxBudget):
    """A softmax over the highest of the thumbnail's scores in each crop's region."""

    name = "softmax_max"
    description = "Softmax at temperature tau over each crop's highest thumbnail score (GlobalCom2's ablation)."

    def _weights(self, thumbnail: torch.Tensor, geometry: Geometry, retention_ratio: float) -> torch.Tensor:
        return thumbnail.double().masked_fill(~geometry.regions, -math.inf).amax(dim=1)  # [crops]


class TopKCountBudget(_SoftmaxBudget):
    """A softmax over the number of the thumbnail's own kept tokens in each crop's region.

    The paper names this choice without saying how a count becomes a ratio; here the count replaces the sum.
    """

    name = "top_k_count"
    description = "Softmax at temperature tau over the thumbnail's kept tokens in each crop (GlobalCom2's ablation)."

    def _weights(self, thumbnail: torch.Tensor, geometry: Geometry, retention_ratio: float) -> torch.Tensor:
        kept = torch.sort(thumbnail, descending=True, stable=True).indices[: int(len(thumbnail) * retention_ratio)]
        return geometry.regions[:, kept].sum(dim=1).double()  # [crops]


def softmax_ratios(weights: Sequence[float], retention_ratio: float, tau: float) -> list[float]:
    """r_j = min(1, R * (1 + sigma_j - mean sigma)), sigma a softmax at temperature tau, in double precision.

    The order of operations follows the published code: it decides the last bit, and truncation makes that visible.
    Without crops there are no ratios.
    """
    highest = max(weights, default=0.0)
    exponentials = [math.exp((weight - highest) / tau) for weight in weights]
    total = _sum(exponentials) + _EPSILON
    sigmas = [exponential / total for exponential in exponentials]
    mean = _sum(sigmas) / max(len(sigmas), 1)
    ratios = [retention_ratio * (1 + sigma - mean) for sigma in sigmas]
    return [1.0 if ratio > 1 else ratio for ratio in ratios]  # not min(), since min(1, nan) is 1


def _sum(values: list[float]) -> float:
    """A plain sum from left to right: the built-in one compensates for rounding from Python 3.12 on."""
    total = 0.0
    for value in values:
        total += value
    return total
