"""Computes how many tokens each tile keeps at a ratio, from the vision tower's output."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from visionsplit.errors import InternalError, InvalidCompressionError

from encoder_service.compression.base import Composition
from encoder_service.compression.geometry import Geometry


@dataclass(frozen=True)
class Shares:
    """The shares that a budget grants the tiles of one image, thumbnail first."""

    ratios: list[float]  # of each tile's valid tokens
    tokens: list[int]  # the same in whole tokens, without those that a merging adds; not valid for a pooled budget


def measure(composition: Composition, geometry: Geometry, source: torch.Tensor) -> torch.Tensor:
    """What `share_out` needs of the budget's source, [n] float64: [P] or, with `whole_image`, [T, P]."""
    return composition.budget.measure(source, geometry, composition.retention_ratio, composition.parameters)


def share_out(composition: Composition, geometry: Geometry, measured: Sequence[float]) -> Shares:
    """Compute each tile's share with the composition's budget. The composition's ratio must not be 1.

    Args:
        composition: the requested composition.
        geometry: how the image was cut.
        measured: the result of `measure`; empty if the budget needs no source.

    Raises:
        InvalidCompressionError: no token would be kept.
        InternalError: the source is not finite.
    """
    budget, counts = composition.budget, geometry.counts
    ratios = budget.ratios(measured, geometry, composition.retention_ratio, composition.parameters)
    if not all(map(math.isfinite, ratios)):
        raise InternalError("the vision tower's scores are not finite")
    tokens = [int(count * share) for count, share in zip(counts, ratios, strict=True)]
    if not (pooled_tokens(counts, ratios) if budget.pooled else any(tokens)):
        kept_none = f"keeps none of the image's {sum(counts)} tokens"
        if composition.retention_ratio is None:
            raise InvalidCompressionError(
                f"budget {budget.name!r} {kept_none}, because no token stands out; give a retention_ratio"
            )
        raise InvalidCompressionError(f"retention_ratio {composition.retention_ratio} {kept_none}")
    return Shares(ratios, tokens)


def pooled_tokens(counts: Sequence[int], ratios: Sequence[float]) -> int:
    """The number of tokens that an image keeps if its tiles compete for one budget."""
    return int(sum(counts) * ratios[0])
