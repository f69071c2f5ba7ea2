"""The order in which an image's kept tokens and its newlines enter the language model."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visionsplit.grid import TileGrid
from visionsplit.options.layout import Layout
from visionsplit.wire.vision_tokens import Positions

if TYPE_CHECKING:
    from visionsplit.families.base import Family, Order

NEWLINE = -1
Indices = NDArray[np.integer[Any]]


def canvas_order(grid: TileGrid, positions: Positions, layout: Layout) -> "Order":
    """The thumbnail, then the canvas row by row across its crops, with a newline after each row.

    Args:
        grid: how the image was cut.
        positions: [tokens, 3] tile, row and column of each token, tile after tile.
        layout: "spatial" sorts the thumbnail by position and puts crop tokens at their true canvas cells, with a
            newline after each row of the valid region, kept tokens in it or not. "reference" leaves the thumbnail in
            the order of arrival and writes each crop token into the crop's cells at its index among the crop's valid
            cells, with a newline after each row of the padded canvas.

    Returns:
        [tokens + newlines]: indices into the tokens, `NEWLINE` at newlines.
    """
    in_thumbnail = positions[:, 0] == 0  # [tokens]
    thumbnail = np.flatnonzero(in_thumbnail)
    crops = np.flatnonzero(~in_thumbnail)
    if layout == "spatial":
        thumbnail = thumbnail[np.argsort(_cells(grid, positions[thumbnail]), kind="stable")]
        newline_rows = np.arange(grid.valid.top, grid.valid.bottom)
        tile_row, tile_column = positions[crops, 1], positions[crops, 2]
    else:
        newline_rows = np.arange(grid.canvas_height)
        tile_row, tile_column = _compacted_cells(grid, positions[crops])
    canvas_row, canvas_column = on_canvas(grid, positions[crops, 0], tile_row, tile_column)  # [crop tokens] each
    # The stride is one column wider than the canvas: a newline sorts as the last cell of its row.
    stride = grid.canvas_width + 1
    keys = np.concatenate([canvas_row * stride + canvas_column, newline_rows * stride + grid.canvas_width])
    sources = np.concatenate([crops, np.full(len(newline_rows), NEWLINE)])
    return np.concatenate([thumbnail, sources[np.argsort(keys, kind="stable")]]).astype(np.int64)


def tile_orders(grid: TileGrid, positions: Positions) -> "list[Order]":
    """The tokens of each tile in raster order, the crops one after the other and the thumbnail last."""
    order = np.argsort(_cells(grid, positions), kind="stable")  # [tokens], tile after tile
    ends = np.searchsorted(_cells(grid, positions[order]), np.arange(1, grid.num_tiles) * grid.cells_per_tile)
    thumbnail, *crops = np.split(order.astype(np.int64), ends)
    return [*crops, thumbnail]


def original_offsets(
    family: "Family", grid: TileGrid, positions: Positions, runs: "list[Order]"
) -> list[tuple[NDArray[np.int64], int]]:
    """Where the tokens of each run would stand if every token of the image had been kept, in the spatial layout.

    Args:
        family: the checkpoint's.
        grid: how the image was cut.
        positions: [tokens, 3] tile, row and column of each token.
        runs: the order of these tokens, from `Family.runs` with the spatial layout.

    Returns:
        For each run, offsets [sequence] ascending from the run's first position, and the number of positions that the
        whole run takes.
    """
    cells = all_cells(grid)
    numbers, all_numbers = _cells(grid, positions), _cells(grid, cells)
    places = np.zeros(grid.num_tiles * grid.cells_per_tile, np.int64)  # of each cell in its run
    results = []
    for run, whole in zip(runs, family.runs(grid, cells, "spatial"), strict=True):
        is_newline, is_kept_newline = whole == NEWLINE, run == NEWLINE
        places[all_numbers[whole[~is_newline]]] = np.flatnonzero(~is_newline)
        offsets = np.empty(len(run), np.int64)
        offsets[is_kept_newline] = np.flatnonzero(is_newline)
        offsets[~is_kept_newline] = places[numbers[run[~is_kept_newline]]]
        results.append((offsets, len(whole)))
    return results


def all_cells(grid: TileGrid) -> Positions:
    """Tile, row and column of every cell that is a token, tile after tile, [tokens, 3] int32."""
    parts = []
    for tile in range(grid.num_tiles):
        region = grid.valid_in_tile(tile)
        rows, columns = np.arange(region.top, region.bottom), np.arange(region.left, region.right)
        parts.append(np.stack(np.broadcast_arrays(tile, rows[:, None], columns), axis=-1).reshape(-1, 3))
    return np.concatenate(parts).astype(np.int32)


def on_canvas(grid: TileGrid, tile: Indices, row: Indices, column: Indices) -> tuple[Indices, Indices]:
    """Canvas row and column of crops' cells, given tile, row and column within the tile of each, [n]."""
    crop_row, crop_column = np.divmod(tile - 1, max(grid.columns, 1))
    return np.array(grid.crop_rows)[crop_row] + row, np.array(grid.crop_columns)[crop_column] + column


def tiles_of(positions: Positions, order: "Order") -> NDArray[np.int64]:
    """The tile of each token of a sequence, [sequence]; NEWLINE at newlines."""
    with_newline = np.append(positions[:, 0].astype(np.int64), NEWLINE)
    return with_newline[order]


def _cells(grid: TileGrid, positions: Positions) -> NDArray[np.int64]:
    """The number of each token's cell, counted over all tiles, [tokens]."""
    tile, row, column = positions.astype(np.int64).T
    numbers: NDArray[np.int64] = (tile * grid.side + row) * grid.side + column
    return numbers


def _compacted_cells(grid: TileGrid, positions: Positions) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of each crop token if a crop's valid cells fill the tile without gaps from its first cell on."""
    regions = [grid.valid_in_tile(tile) for tile in range(grid.num_tiles)]
    bounds = np.array([(region.top, region.left, region.width) for region in regions], np.int64)[positions[:, 0]]
    index = (positions[:, 1] - bounds[:, 0]) * bounds[:, 2] + positions[:, 2] - bounds[:, 1]  # [crop tokens]
    return index // grid.side, index % grid.side
