"""Which vision tokens to keep: scores in, positions out.

`select` treats one image whose scores are all known; `Plan` does the same tile by tile as the vision tower finishes.
"""

import torch
from visionsplit.errors import InvalidCompressionError
from visionsplit.grid import TileGrid

from encoder_service.compression.base import Composition, CompressionSpec, Kept, TowerOutput
from encoder_service.compression.budgets import BUDGETS
from encoder_service.compression.methods import METHODS, Choice, compose
from encoder_service.compression.plan import Plan
from encoder_service.compression.scores import SCORES
from encoder_service.compression.selections import SELECTIONS

__all__ = [
    "BUDGETS",
    "METHODS",
    "SCORES",
    "SELECTIONS",
    "Choice",
    "Composition",
    "CompressionSpec",
    "Kept",
    "Plan",
    "TowerOutput",
    "compose",
    "select",
]


def select(scores: torch.Tensor, grid: TileGrid, spec: CompressionSpec) -> Kept:
    """The tokens of one image to keep.

    Args:
        scores: pre-softmax [CLS] scores, [T, P] on any device; row 0 is the thumbnail, then the crops, row-major.
        grid: how the image was cut, by the unpad rule that belongs to the layout.
        spec: the compression asked for.

    Raises:
        InvalidCompressionError: the spec is wrong, keeps no token, or the scores do not have the grid's shape.
    """
    expected = (grid.num_tiles, grid.cells_per_tile)
    if tuple(scores.shape) != expected:
        raise InvalidCompressionError(f"scores have shape {list(scores.shape)}; the grid needs {list(expected)}")
    plan = Plan(compose(spec), grid, scores.device)
    scores = scores.float()
    plan.start(scores[0])
    numbers = plan.choose(0, grid.num_tiles, scores)  # [K]
    return Kept(plan.budgets, plan.ratios, list(torch.split(plan.positions(numbers), plan.budgets)))
