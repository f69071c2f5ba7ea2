"""Index maps of a grid, computed once and reused for all images that are cut and padded in the same way.

Each tile's cells are listed with the valid ones first, in raster order, followed by the padding, so that row t of a
[T, P] map belongs to tile t and its first `counts[t]` columns show image.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from visionsplit.grid import TileGrid


@dataclass(frozen=True)
class Geometry:
    """The positions of the cells of a grid's tiles. T tiles of P cells, `side` along each edge."""

    side: int
    counts: tuple[int, ...]  # valid cells per tile, thumbnail first
    padded: bool  # whether any cell shows padding
    cells: torch.Tensor  # [T, P] int64: cell within the tile, valid ones first
    numbers: torch.Tensor  # [T, P] int64: the same numbered over all tiles, tile * P + cell
    padding: torch.Tensor  # [T, P] bool: all but the first counts[t] of each row
    canvas_size: tuple[int, int]  # rows and columns of the valid region in cells
    guides: torch.Tensor  # [T - 1, P] int64: index into the flattened valid region for each crop cell, 0 for padding
    regions: torch.Tensor  # [T - 1, P] bool: the thumbnail cells that belong to each crop
    region_weights: torch.Tensor  # [T - 1, P] float64: the part of each thumbnail cell that lies in each crop


@dataclass(frozen=True)
class GeometryRules:
    """Where models and layouts differ."""

    reference_layout: bool = False  # whether padding is skipped as in GlobalCom2's code
    # Whether the last row and column of crops take the thumbnail's cells that are left over, as in GlobalCom2's code.
    # Otherwise all regions are equal, and cells on their borders count in part. The same where the side divides evenly.
    whole_cell_regions: bool = True


@lru_cache(maxsize=512)
def geometry_of(grid: TileGrid, rules: GeometryRules, device: torch.device) -> Geometry:
    """The index maps of a grid on a device. Grids that differ only in pixels share one entry after `canonical`."""
    cells = torch.stack([_cells(grid, tile) for tile in range(grid.num_tiles)])  # [T, P]
    counts = tuple(grid.valid_counts())
    padding = torch.arange(grid.cells_per_tile) >= torch.tensor(counts)[:, None]  # [T, P]
    if rules.whole_cell_regions:
        regions = _regions(grid, _whole_cells)
        weights = regions.double()
    else:
        regions, weights = _regions(grid, _part_of_centre), _region_weights(grid)
    return Geometry(
        side=grid.side,
        counts=counts,
        padded=min(counts) < grid.cells_per_tile,
        cells=cells.to(device),
        numbers=(cells + torch.arange(grid.num_tiles)[:, None] * grid.cells_per_tile).to(device),
        padding=padding.to(device),
        canvas_size=(grid.valid.height, grid.valid.width),
        guides=_guides(grid, reference_layout=rules.reference_layout).to(device),
        regions=regions.to(device),
        region_weights=weights.to(device),
    )


def canonical(grid: TileGrid) -> TileGrid:
    """The grid without the image's size in pixels, on which no index map depends."""
    return replace(grid, image_height=0, image_width=0)


def _cells(grid: TileGrid, tile: int) -> torch.Tensor:
    """A tile's cells, valid ones first, [P] int64."""
    inside = torch.zeros(grid.side, grid.side, dtype=torch.bool)
    region = grid.valid_in_tile(tile)
    inside[region.top : region.bottom, region.left : region.right] = True
    return torch.argsort(inside.flatten().to(torch.int8), descending=True, stable=True)


def _regions(grid: TileGrid, part_of: Callable[[int, int], torch.Tensor]) -> torch.Tensor:
    """The thumbnail cells that belong to each crop, [crops, P] bool.

    The thumbnail is the whole image squeezed into a square, so it is cut into parts; padding does not matter.
    """
    row = part_of(grid.side, grid.rows)  # [side]
    column = part_of(grid.side, grid.columns)  # [side]
    crop = (row[:, None] * grid.columns + column).flatten()  # [P]
    return crop == torch.arange(grid.num_crops)[:, None]


def _region_weights(grid: TileGrid) -> torch.Tensor:
    """The part of each thumbnail cell that lies in each crop, [crops, P] float64.

    A sum over a larger region measures its area more than its content, so all regions are equal.
    """
    rows = _overlaps(grid.side, grid.rows)  # [rows, side]
    columns = _overlaps(grid.side, grid.columns)  # [columns, side]
    return torch.einsum("rh,cw->rchw", rows, columns).reshape(grid.num_crops, grid.cells_per_tile)


def _whole_cells(side: int, parts: int) -> torch.Tensor:
    """Which part each cell of a side belongs to, [side] int64: equal whole numbers of cells, the rest to the last."""
    return torch.clamp(torch.arange(side) // max(side // max(parts, 1), 1), max=parts - 1)


def _part_of_centre(side: int, parts: int) -> torch.Tensor:
    """Which of some equal parts of a side the centre of each of its cells lies in, [side] int64."""
    return (2 * torch.arange(side) + 1) * parts // (2 * side)


def _overlaps(side: int, parts: int) -> torch.Tensor:
    """How much of each cell of a side lies in each of some equal parts, [parts, side] float64.

    Computed in units of 1 / parts of a cell, in whole numbers, so that cells wholly inside count exactly 1.
    """
    cells = torch.arange(side) * parts  # where each cell begins; it ends `parts` later
    starts = torch.arange(parts)[:, None] * side  # where each part begins; it ends `side` later
    overlap = torch.minimum(cells + parts, starts + side) - torch.maximum(cells, starts)  # [parts, side]
    return overlap.clamp(min=0).double() / max(parts, 1)


def _guides(grid: TileGrid, *, reference_layout: bool) -> torch.Tensor:
    """The position of each crop's cells in the valid region, [crops, P] int64; 0 for padding.

    GlobalCom2's code walks the valid region row of crops by row of crops and advances by the height of the row's
    first crop; if that crop is entirely padding it does not advance. The reference layout reproduces this.
    """
    guides = torch.zeros(grid.num_crops, grid.cells_per_tile, dtype=torch.int64)
    below = 0  # rows of the valid region above the current row of crops
    for crop_row in range(grid.rows):
        beside = 0
        for crop in range(crop_row * grid.columns, (crop_row + 1) * grid.columns):
            region = grid.valid_in_tile(crop + 1)
            rows = torch.arange(region.height) + below
            columns = torch.arange(region.width) + beside
            guides[crop, : region.area] = (rows[:, None] * grid.valid.width + columns).flatten()
            beside += region.width
        first = grid.valid_in_tile(crop_row * grid.columns + 1)
        skipped = reference_layout and first.area == 0
        below += 0 if skipped else first.height
    return guides
