"""Decides which vision tokens to keep: features and scores in, kept tokens out.

`select` handles one image whose tiles are all encoded; `take_together` does the same batch by batch while the vision
tower runs, for several images at once.
"""

import torch
from visionsplit.errors import InternalError, InvalidCompressionError
from visionsplit.families.tower_outputs import FROM_TEXT, TileFeatures, TowerOutput
from visionsplit.grid import TileGrid
from visionsplit.options.compression import Compression

from encoder_service.compression.base import Composition, Kept
from encoder_service.compression.budgets import BUDGETS
from encoder_service.compression.compose import Abilities, compose
from encoder_service.compression.mergings import MERGINGS
from encoder_service.compression.methods import METHODS, Choice, listed_methods, offered
from encoder_service.compression.plan import KeptTokens, Plan
from encoder_service.compression.scores import SCORES
from encoder_service.compression.selections import SELECTIONS
from encoder_service.compression.selections.fused import fused_pick
from encoder_service.compression.together import NextTiles, Taken, take, take_together

__all__ = [
    "BUDGETS",
    "FROM_TEXT",
    "MERGINGS",
    "METHODS",
    "SCORES",
    "SELECTIONS",
    "Abilities",
    "Choice",
    "Composition",
    "Kept",
    "KeptTokens",
    "NextTiles",
    "Plan",
    "Taken",
    "TileFeatures",
    "TowerOutput",
    "compose",
    "listed_methods",
    "offered",
    "prepare_device",
    "select",
    "take",
    "take_together",
]


def prepare_device(device: torch.device) -> None:
    """Compile the kernels that selections use on a device, so that no request waits for that."""
    fused_pick(device)


def select(encoded: TileFeatures, grid: TileGrid, compression: Compression) -> Kept:
    """Select the tokens of one image to keep.

    Args:
        encoded: the vision tower's output for T tiles of P cells: tile 0 is the thumbnail, followed by the crops,
            row-major. It must contain the outputs in `compose(compression).needs`.
        grid: how the image was cut, by the unpad rule that belongs to the layout.
        compression: the requested compression.

    Raises:
        InvalidCompressionError: the compression is invalid or keeps no token, or the features and outputs do not have
            the grid's shape.
        InternalError: the scores are not finite.
    """
    composition = compose(compression)
    _check_shapes(encoded, grid, composition)
    plan = Plan(composition, grid, encoded.features.device)
    kept = take(plan, 0, grid.num_tiles, encoded)
    assert kept is not None, "an image was given whole"
    if not kept.sound:
        raise InternalError("the vision tower's scores are not finite")
    positions = torch.split(plan.positions(kept.numbers), plan.budgets)
    return Kept(plan.budgets, plan.ratios, list(positions), kept.features, plan.quotas)


def _check_shapes(encoded: TileFeatures, grid: TileGrid, composition: Composition) -> None:
    expected = [grid.num_tiles, grid.cells_per_tile]
    missing = composition.needs - encoded.outputs.keys()
    if missing:
        raise InvalidCompressionError(f"the composition needs {min(output.name for output in missing)}")
    for name, values in {
        "features": encoded.features,
        **{o.name: encoded.outputs[o] for o in composition.needs},
    }.items():
        if list(values.shape[:2]) != expected:
            raise InvalidCompressionError(f"{name} have shape {list(values.shape)}; the grid needs {expected}")
