"""Means and their intervals, by a bootstrap over images.

An image's questions are answered from the same tokens and are not independent, so whole images are drawn. Every
condition meets the same draws: what two conditions have in common then cancels in their difference and their ratio.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 2000
_LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval; NaN if nothing was measured."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> "Interval":
        return Interval(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Tally:
    """Each image's scores under one condition, for I images and M metrics."""

    sums: Floats  # [I, M] sum of the scores of an image's questions
    counts: Floats  # number of these questions


class Bootstrap:
    """Samples of I images out of I. Results have B + 1 rows: row 0 is the original sample, the rest are draws."""

    def __init__(self, num_images: int, *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        draws = np.random.default_rng(seed).multinomial(num_images, [1 / num_images] * num_images, size=resamples)
        self._weights: Floats = np.concatenate([np.ones((1, num_images)), draws])  # [B + 1, I]

    def means(self, tally: Tally) -> Floats:
        """Mean score by metric, [B + 1, M]; NaN if a draw contains no question of a metric."""
        counts = self._weights @ tally.counts
        means = np.full_like(counts, math.nan)
        np.divide(self._weights @ tally.sums, counts, out=means, where=counts > 0)
        return means


def interval(rows: Floats) -> Interval:
    """The value in row 0 of [B + 1], and the middle 95% of the other rows that are numbers."""
    draws = rows[1:][np.isfinite(rows[1:])]
    if not (math.isfinite(rows[0]) and len(draws)):
        return Interval(float(rows[0]), math.nan, math.nan)
    low, high = np.quantile(draws, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval(float(rows[0]), float(low), float(high))


def ratio(above: Floats, below: Floats) -> Floats:
    """Divide row by row; NaN where `below` is 0."""
    quotient = np.full_like(above, math.nan)
    np.divide(above, below, out=quotient, where=below != 0)
    return quotient
