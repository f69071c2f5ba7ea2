"""The order in which an image's kept tokens and its newlines enter the language model."""

import numpy as np
from numpy.typing import NDArray
from visionsplit.grid import TileGrid
from visionsplit.options.layout import Layout
from visionsplit.wire.vision_tokens import Positions

Order = NDArray[np.int64]  # [sequence]: rows of the kept tokens; NEWLINE at a newline
NEWLINE = -1


def sequence_order(grid: TileGrid, positions: Positions, layout: Layout) -> Order:
    """The order of one image's kept tokens and newlines in the prompt.

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
        _, row, column = positions[thumbnail].T
        thumbnail = thumbnail[np.argsort(row * grid.side + column, kind="stable")]
        newline_rows = np.arange(grid.valid.top, grid.valid.bottom)
        tile_row, tile_column = positions[crops, 1], positions[crops, 2]
    else:
        newline_rows = np.arange(grid.canvas_height)
        tile_row, tile_column = _compacted_cells(grid, positions[crops])
    crop_row, crop_column = np.divmod(positions[crops, 0] - 1, grid.columns)
    canvas_row = crop_row * grid.side + tile_row  # [crop tokens]
    canvas_column = crop_column * grid.side + tile_column  # [crop tokens]
    # The stride is one column wider than the canvas: a newline sorts as the last cell of its row.
    stride = grid.canvas_width + 1
    keys = np.concatenate([canvas_row * stride + canvas_column, newline_rows * stride + grid.canvas_width])
    sources = np.concatenate([crops, np.full(len(newline_rows), NEWLINE)])
    return np.concatenate([thumbnail, sources[np.argsort(keys, kind="stable")]]).astype(np.int64)


def original_positions(grid: TileGrid, positions: Positions, order: Order) -> NDArray[np.int64]:
    """The position at which each token of one image would stand if every token had been kept, in the spatial layout.

    Args:
        grid: how the image was cut.
        positions: [tokens, 3] tile, row and column of each token.
        order: the order of these tokens, from `sequence_order` with the spatial layout.

    Returns:
        [sequence] ascending, from 0: the thumbnail's cells, then the valid region's rows, each with its newline. If
        every token was kept, these are 0, 1, 2 and so on; an image spans `original_span` positions.
    """
    tile, row, column = positions.astype(np.int64).T
    crop_row, crop_column = np.divmod(tile - 1, grid.columns)
    valid_row = crop_row * grid.side + row - grid.valid.top  # [tokens]; valid_row and valid_column are used for crops
    valid_column = crop_column * grid.side + column - grid.valid.left
    stride = grid.valid.width + 1
    in_canvas = grid.cells_per_tile + valid_row * stride + valid_column
    by_token = np.where(tile == 0, row * grid.side + column, in_canvas)  # [tokens]
    newlines = grid.cells_per_tile + np.arange(grid.valid.height) * stride + grid.valid.width  # [newlines]
    result = np.empty(len(order), np.int64)
    result[order == NEWLINE] = newlines
    result[order != NEWLINE] = by_token[order[order != NEWLINE]]
    return result


def original_span(grid: TileGrid) -> int:
    """The number of tokens and newlines of a whole image in the spatial layout."""
    return grid.cells_per_tile + grid.valid.height * (grid.valid.width + 1)


def tiles_of(positions: Positions, order: Order) -> NDArray[np.int64]:
    """The tile of each token of a sequence, [sequence]; NEWLINE at newlines."""
    with_newline = np.append(positions[:, 0].astype(np.int64), NEWLINE)
    return with_newline[order]


def _compacted_cells(grid: TileGrid, positions: Positions) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of each crop token if a crop's valid cells fill the tile without gaps from its first cell on."""
    regions = [grid.valid_in_tile(tile) for tile in range(grid.num_tiles)]
    bounds = np.array([(region.top, region.left, region.width) for region in regions], np.int64)[positions[:, 0]]
    index = (positions[:, 1] - bounds[:, 0]) * bounds[:, 2] + positions[:, 2] - bounds[:, 1]  # [crop tokens]
    return index // grid.side, index % grid.side
