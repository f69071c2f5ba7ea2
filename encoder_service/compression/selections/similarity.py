"""Helpers of the selections that read features: directions, cosines, and worths as weights.

The authors of DivPrune, Cen-Prune and CDPruner compute cosines of the features after the projector. Here they are
computed from the vision tower's features: the encoder has no projector, whose weights belong to the language model.
"""

import torch

from encoder_service.compression.candidates import Candidates

_TINY = 1e-12  # shorter vectors count as having no direction
_EPSILON = 1e-6  # in Cen-Prune's scaling of distinctiveness (equation 11); the paper does not state its value


def directions(features: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
    """Features [t, C, Dv] scaled to unit length in float32; padding [t, C] and vectors without length become zeros."""
    vectors = features.float().masked_fill(padding[..., None], 0.0)
    lengths: torch.Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)  # [t, C, 1]
    return vectors / lengths.clamp_min(_TINY)


def residuals(features: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
    """The directions in which features [t, C, Dv] depart from their row's mean, [t, C, Dv] (Cen-Prune, equation 4)."""
    vectors = features.float().masked_fill(padding[..., None], 0.0)
    counts = (~padding).sum(dim=1).clamp(min=1)[:, None, None]  # [t, 1, 1]
    return directions(vectors - vectors.sum(dim=1, keepdim=True) / counts, padding)


def distinctiveness(features: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
    """How different each token is from the others of its row, [t, C]: 0 for the most similar, 1 for the least.

    The mean cosine to the others before centring, negated and scaled (Cen-Prune, equations 5, 6 and 11). The sum of the
    cosines to the others equals the product with the sum of all directions, minus that with itself.
    """
    units = directions(features, padding)  # [t, C, Dv]
    toward = (units * units.sum(dim=1, keepdim=True)).sum(dim=2) - units.square().sum(dim=2)  # [t, C]
    raw = -toward / ((~padding).sum(dim=1)[:, None] - 1).clamp(min=1)
    lowest = raw.masked_fill(padding, torch.inf).amin(dim=1, keepdim=True)  # [t, 1]
    highest = raw.masked_fill(padding, -torch.inf).amax(dim=1, keepdim=True)  # [t, 1]
    return ((raw - lowest) / (highest - lowest + _EPSILON)).masked_fill(padding, 0.0)


def cosines(units: torch.Tensor) -> torch.Tensor:
    """The cosine of every pair of a row's cells, [t, C, C], from their directions [t, C, Dv].

    Computed row by row: PyTorch's batched product may differ in the last bits between one row and several, and what a
    tile keeps must not depend on how many tiles are processed together.
    """
    tiles, cells, _ = units.shape
    result = units.new_empty(tiles, cells, cells)
    for row, unit in zip(result.unbind(), units.unbind(), strict=True):
        torch.mm(unit, unit.t(), out=row)
    return result


def weights(candidates: Candidates, power: float) -> torch.Tensor:
    """Worths [t, C] as factors from 0, the row's lowest, to 1, its highest, raised to a power; 0 for padding.

    This makes logits, whose zero has no meaning, and attention comparable. All are 1 if all are equal. Worths that are
    weights already, such as CDPruner's relevance, keep their proportions, as in `proportional_weights`.
    """
    worth, padding = candidates.worth, candidates.padding
    if candidates.worth_is_weight:
        return proportional_weights(worth, padding, power)
    lowest = worth.masked_fill(padding, torch.inf).amin(dim=1, keepdim=True)  # [t, 1]
    return _scaled(worth - lowest, padding, power)


def proportional_weights(worth: torch.Tensor, padding: torch.Tensor, power: float) -> torch.Tensor:
    """The same, but worths that are not negative anywhere in their row, such as attention, keep their proportions."""
    lowest = worth.masked_fill(padding, torch.inf).amin(dim=1, keepdim=True)  # [t, 1]
    return _scaled(worth - lowest.clamp(max=0.0), padding, power)


def _scaled(shifted: torch.Tensor, padding: torch.Tensor, power: float) -> torch.Tensor:
    """Non-negative values, scaled so that their row's highest is 1, to a power, [t, C]."""
    shifted = shifted.masked_fill(padding, 0.0)
    highest = shifted.amax(dim=1, keepdim=True)  # [t, 1]
    scaled = torch.where(highest > 0, shifted / highest, torch.ones_like(shifted))
    return scaled.pow(power).masked_fill(padding, 0.0)
