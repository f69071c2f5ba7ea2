"""Budgets that ignore the content: the same share of every tile, or of the image as a whole."""

from collections.abc import Sequence

from visionsplit.options.parameters import Parameters

from encoder_service.compression.base import Budget
from encoder_service.compression.geometry import Geometry


class UniformBudget(Budget):
    """Every tile keeps the same share."""

    name = "uniform"
    description = "Every tile keeps retention_ratio of its tokens (GlobalCom2's ablation, uniform)."

    def ratios(
        self, measured: Sequence[float], geometry: Geometry, retention_ratio: float | None, parameters: Parameters
    ) -> list[float]:
        assert retention_ratio is not None, "compose sees to it"
        return [retention_ratio] * len(geometry.counts)


class PooledBudget(UniformBudget):
    """All tiles' tokens compete for one budget, as in methods that do not distinguish tiles."""

    name = "pooled"
    description = "retention_ratio of the image's tokens, wherever the selection finds them; sent when all are encoded."
    whole_image = True
    pooled = True
