"""The order of tokens and newlines, against loops written from the protocol's text."""

import numpy as np
import pytest
from visionsplit.families.llava_next.family import LlavaNext
from visionsplit.families.token_order import NEWLINE, canvas_order
from visionsplit.grid import TileGrid

SHAPES = [(2, 2), (1, 2), (2, 1), (1, 3), (3, 1), (1, 1)]
IMAGES = [(100, 100), (333, 90), (64, 500), (500, 3), (3, 500), (97, 101)]


def kept_positions(grid: TileGrid, share: float, seed: int) -> np.ndarray:
    """Random valid cells, tile after tile, each tile's in random order."""
    random = np.random.default_rng(seed)
    rows = []
    for tile in range(grid.num_tiles):
        region = grid.valid_in_tile(tile)
        cells = [(tile, y, x) for y in range(region.top, region.bottom) for x in range(region.left, region.right)]
        random.shuffle(cells)
        rows += cells[: int(len(cells) * share)]
    return np.array(rows, np.int32).reshape(-1, 3)


def spatial_loop(grid: TileGrid, positions: np.ndarray) -> list[int]:
    at = {tuple(position): index for index, position in enumerate(positions.tolist())}
    order = [at[0, y, x] for y in range(grid.side) for x in range(grid.side) if (0, y, x) in at]
    for canvas_y in range(grid.valid.top, grid.valid.bottom):
        for canvas_x in range(grid.canvas_width):
            tile = 1 + canvas_y // grid.side * grid.columns + canvas_x // grid.side
            cell = (tile, canvas_y % grid.side, canvas_x % grid.side)
            if cell in at:
                order.append(at[cell])
        order.append(NEWLINE)
    return order


def reference_loop(grid: TileGrid, positions: np.ndarray) -> list[int]:
    order = [index for index, position in enumerate(positions.tolist()) if position[0] == 0]
    canvas: dict[tuple[int, int], int] = {}
    for tile in range(1, grid.num_tiles):
        region = grid.valid_in_tile(tile)
        valid = [(y, x) for y in range(region.top, region.bottom) for x in range(region.left, region.right)]
        for index, (owner, y, x) in enumerate(positions.tolist()):
            if owner == tile:
                place = valid.index((y, x))
                top, left = (tile - 1) // grid.columns * grid.side, (tile - 1) % grid.columns * grid.side
                canvas[top + place // grid.side, left + place % grid.side] = index
    for y in range(grid.canvas_height):
        order += [canvas[y, x] for x in range(grid.canvas_width) if (y, x) in canvas]
        order.append(NEWLINE)
    return order


@pytest.mark.parametrize("share", [1.0, 0.4, 0.05])
@pytest.mark.parametrize("image", IMAGES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_layouts(shape: tuple[int, int], image: tuple[int, int], share: float):
    grid = TileGrid.padded(*image, rows=shape[0], columns=shape[1], side=6)
    positions = kept_positions(grid, share, seed=shape[0] * 7 + image[0])
    spatial = canvas_order(grid, positions, "spatial")
    reference = canvas_order(grid, positions, "reference")
    assert spatial.tolist() == spatial_loop(grid, positions)
    assert reference.tolist() == reference_loop(grid, positions)
    for order, layout in ((spatial, "spatial"), (reference, "reference")):
        assert (order == NEWLINE).sum() == LlavaNext().num_newlines(grid, layout)


def test_newlines_stay_where_nothing_is_kept():
    grid = TileGrid.padded(100, 100, rows=2, columns=2, side=4)
    order = canvas_order(grid, np.array([[0, 1, 1]], np.int32), "spatial")
    assert order.tolist() == [0] + [NEWLINE] * 8
