"""Where an image's tiles lie on a drawing of it, and which of their cells are kept."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from visionsplit.families.token_order import on_canvas
from visionsplit.grid import TileGrid
from visionsplit.wire.vision_tokens import VisionTokens

_PRUNED_BRIGHTNESS = 0.22

Mask = NDArray[np.bool_]  # [rows, columns] of cells; true where a token is kept
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


def kept_masks(tokens: VisionTokens) -> tuple[Mask, Mask]:
    """The thumbnail's cells [side, side] and the cells of the canvas' valid region [height, width] that are kept."""
    grid = tokens.grid
    tile, row, column = tokens.positions.T
    thumbnail = np.zeros((grid.side, grid.side), bool)
    thumbnail[row[tile == 0], column[tile == 0]] = True
    canvas = np.zeros((grid.canvas_height, grid.canvas_width), bool)
    crop = tile > 0
    canvas[on_canvas(grid, tile[crop], row[crop], column[crop])] = True
    valid = grid.valid
    return thumbnail, canvas[valid.top : valid.bottom, valid.left : valid.right]


def crop_boxes(grid: TileGrid, size: tuple[int, int]) -> dict[int, Box]:
    """Where each crop that shows image lies on a drawing of the valid region, by tile."""
    valid = grid.valid
    boxes = {}
    for tile in range(1, grid.num_tiles):
        region = grid.valid_in_tile(tile)
        if not region.area:
            continue
        row, column = divmod(tile - 1, grid.columns)
        top, left = grid.crop_rows[row] - valid.top, grid.crop_columns[column] - valid.left
        boxes[tile] = (
            round((left + region.left) / valid.width * size[0]),
            round((top + region.top) / valid.height * size[1]),
            round((left + region.right) / valid.width * size[0]),
            round((top + region.bottom) / valid.height * size[1]),
        )
    return boxes


def dimmed(image: Image.Image, kept: Mask) -> Image.Image:
    """The drawing with pruned cells dark and nearly grey. An empty mask dims it all."""
    pixels = np.asarray(image.convert("RGB"), np.float32)  # [H, W, 3]
    grey = pixels.mean(axis=2, keepdims=True)
    dark = (0.35 * pixels + 0.65 * grey) * _PRUNED_BRIGHTNESS
    if kept.size:
        full = Image.fromarray(kept).resize(image.size, Image.Resampling.NEAREST)
        bright = np.asarray(full, bool)[:, :, None]  # [H, W, 1]
    else:
        bright = np.zeros((*pixels.shape[:2], 1), bool)
    return Image.fromarray(np.where(bright, pixels, dark).astype(np.uint8))
