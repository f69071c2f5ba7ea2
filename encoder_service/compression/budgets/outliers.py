"""A ratio computed from the image: the share of tokens that stand out.

Source: PruMerge (arXiv 2403.15388) and its published code.
"""

import math
from collections.abc import Sequence

import torch
from visionsplit.families.tower_outputs import TowerOutput
from visionsplit.options.parameters import Parameters

from encoder_service.compression.base import Budget
from encoder_service.compression.geometry import Geometry


class OutlierBudget(Budget):
    """The share of tokens whose score exceeds the third quartile by more than 1.5 times the interquartile range.

    All tiles get the same share, computed from the scores of all of them, as in the published code, whose call receives
    all views of an image. That code does not handle padding; here cells that show padding do not count.
    """

    name = "outliers"
    description = (
        "The share of tokens that stand out in the image, by the interquartile range; give no ratio (PruMerge)."
    )
    source = TowerOutput.CLS_AFFINITY
    whole_image = True
    adaptive = True

    def measure(
        self, source: torch.Tensor, geometry: Geometry, retention_ratio: float | None, parameters: Parameters
    ) -> torch.Tensor:
        ordered = source.float().gather(1, geometry.cells)  # [T, P]
        rows = zip(ordered.unbind(), geometry.counts, strict=True)
        return outliers(torch.cat([row[:count] for row, count in rows]))

    def ratios(
        self, measured: Sequence[float], geometry: Geometry, retention_ratio: float | None, parameters: Parameters
    ) -> list[float]:
        found, limit = measured
        share = math.nan if math.isnan(limit) else found / sum(geometry.counts)
        return [share] * len(geometry.counts)


def outliers(values: torch.Tensor) -> torch.Tensor:
    """How many of some values [n] float32 exceed Q3 + 1.5 * (Q3 - Q1), and this limit, [2] float64.

    Percentiles interpolate linearly. `torch.quantile` equals `numpy.percentile`, which the published code uses, to the
    last bit of float32 (tested on 20 000 random samples of 1 to 3000 values, NumPy 2.4).
    """
    quarters = torch.tensor([0.25, 0.75], dtype=values.dtype, device=values.device)
    first, third = torch.quantile(values, quarters).unbind()
    limit = third + 1.5 * (third - first)
    return torch.stack(((values > limit).sum().double(), limit.double()))
