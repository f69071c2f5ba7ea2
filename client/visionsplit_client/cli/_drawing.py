"""Draws which vision tokens an image keeps: kept cells as they are, pruned ones dimmed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from visionsplit.grid import TileGrid
from visionsplit.wire.vision_tokens import VisionTokens

_BACKGROUND = (18, 20, 24)
_TEXT = (236, 238, 240)
_MUTED = (150, 156, 164)
_BORDER = (255, 184, 28)
_CHIP = (18, 20, 24, 205)
_PRUNED_BRIGHTNESS = 0.22
_MAX_CROPS_SIZE = (640, 480)  # pixels of the crops' picture, at most
_MIN_CROPS_SIDE = 24  # pixels; a thin strip is drawn thicker than it is
_THUMBNAIL_SIZE = 240
_MARGIN, _GAP, _HEADER, _LABEL = 24, 20, 34, 24

Mask = NDArray[np.bool_]  # [rows, columns] of cells; true where a token is kept
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class Panel:
    """One way to compress the image."""

    title: str
    tokens: VisionTokens


def draw_panels(image: Image.Image, panels: Sequence[Panel]) -> Image.Image:
    """All panels in one picture, two beside each other."""
    drawn = [_draw_panel(image, panel) for panel in panels]
    columns = min(2, len(drawn))
    rows = -(-len(drawn) // columns)
    width, height = max(panel.width for panel in drawn), max(panel.height for panel in drawn)
    sheet = Image.new("RGB", (columns * width, rows * height), _BACKGROUND)
    for index, panel in enumerate(drawn):
        row, column = divmod(index, columns)
        sheet.paste(panel, (column * width, row * height))
    return sheet


def kept_masks(tokens: VisionTokens) -> tuple[Mask, Mask]:
    """The thumbnail's cells [side, side] and the cells of the canvas' valid region [height, width] that are kept."""
    grid = tokens.grid
    tile, row, column = tokens.positions.T
    thumbnail = np.zeros((grid.side, grid.side), bool)
    thumbnail[row[tile == 0], column[tile == 0]] = True
    canvas = np.zeros((grid.canvas_height, grid.canvas_width), bool)
    crop = tile > 0
    crop_row, crop_column = np.divmod(tile[crop] - 1, grid.columns)
    canvas[crop_row * grid.side + row[crop], crop_column * grid.side + column[crop]] = True
    valid = grid.valid
    return thumbnail, canvas[valid.top : valid.bottom, valid.left : valid.right]


def _draw_panel(image: Image.Image, panel: Panel) -> Image.Image:
    grid = panel.tokens.grid
    scale = min(_MAX_CROPS_SIZE[0] / image.width, _MAX_CROPS_SIZE[1] / image.height)
    crops_size = (max(round(image.width * scale), _MIN_CROPS_SIDE), max(round(image.height * scale), _MIN_CROPS_SIDE))
    title_font = ImageFont.load_default(22)
    width = 2 * _MARGIN + max(_THUMBNAIL_SIZE + _GAP + crops_size[0], round(title_font.getlength(panel.title)))
    height = 2 * _MARGIN + _HEADER + _LABEL + max(_THUMBNAIL_SIZE, crops_size[1])
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet, "RGBA")
    thumbnail_mask, crops_mask = kept_masks(panel.tokens)
    top = _MARGIN + _HEADER + _LABEL
    draw.text((_MARGIN, _MARGIN - 4), panel.title, fill=_TEXT, font=title_font)

    _draw_label(draw, (_MARGIN, top), f"thumbnail {panel.tokens.budgets[0]} / {grid.cells_per_tile}")
    sheet.paste(_dim(image.resize((_THUMBNAIL_SIZE, _THUMBNAIL_SIZE)), thumbnail_mask), (_MARGIN, top))
    _draw_border(draw, (_MARGIN, top, _MARGIN + _THUMBNAIL_SIZE, top + _THUMBNAIL_SIZE))

    left = _MARGIN + _THUMBNAIL_SIZE + _GAP
    if not grid.valid.area:
        _draw_label(draw, (left, top), f"{grid.rows} x {grid.columns} crops: no crop tokens")
        return sheet
    _draw_label(draw, (left, top), f"{grid.rows} x {grid.columns} crops")
    sheet.paste(_dim(image.resize(crops_size), crops_mask), (left, top))
    for tile, box in _crop_boxes(grid, crops_size).items():
        shifted = (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
        _draw_border(draw, shifted)
        _draw_budget(draw, shifted, panel.tokens.budgets[tile], grid.valid_in_tile(tile).area)
    return sheet


def _crop_boxes(grid: TileGrid, size: tuple[int, int]) -> dict[int, Box]:
    """Where each crop that shows image lies on a picture of the valid region, by tile."""
    valid, side = grid.valid, grid.side
    boxes = {}
    for tile in range(1, grid.num_tiles):
        region = grid.valid_in_tile(tile)
        if not region.area:
            continue
        row, column = divmod(tile - 1, grid.columns)
        boxes[tile] = (
            round((column * side + region.left - valid.left) / valid.width * size[0]),
            round((row * side + region.top - valid.top) / valid.height * size[1]),
            round((column * side + region.right - valid.left) / valid.width * size[0]),
            round((row * side + region.bottom - valid.top) / valid.height * size[1]),
        )
    return boxes


def _dim(image: Image.Image, kept: Mask) -> Image.Image:
    """The picture with pruned cells dark and nearly grey. An empty mask dims it all."""
    pixels = np.asarray(image.convert("RGB"), np.float32)  # [H, W, 3]
    grey = pixels.mean(axis=2, keepdims=True)
    dimmed = (0.35 * pixels + 0.65 * grey) * _PRUNED_BRIGHTNESS
    if kept.size:
        full = Image.fromarray(kept).resize(image.size, Image.Resampling.NEAREST)
        bright = np.asarray(full, bool)[:, :, None]  # [H, W, 1]
    else:
        bright = np.zeros((*pixels.shape[:2], 1), bool)
    return Image.fromarray(np.where(bright, pixels, dimmed).astype(np.uint8))


def _draw_border(draw: ImageDraw.ImageDraw, box: Box) -> None:
    left, top, right, bottom = box
    draw.rectangle((left, top, right - 1, bottom - 1), outline=_BORDER, width=2)


def _draw_budget(draw: ImageDraw.ImageDraw, box: Box, budget: int, limit: int) -> None:
    """The crop's budget in its corner."""
    left, top, right, bottom = box
    font = ImageFont.load_default(15)
    text = f"{budget} / {limit}"
    _, _, text_right, text_bottom = draw.textbbox((0, 0), text, font=font)
    chip = (left + 6, top + 6, left + 6 + text_right + 12, top + 6 + text_bottom + 8)
    if chip[2] > right or chip[3] > bottom:
        return  # no room in a crop that is nearly all padding
    draw.rounded_rectangle(chip, radius=5, fill=_CHIP)
    draw.text((chip[0] + 6, chip[1] + 3), text, fill=_TEXT, font=font)


def _draw_label(draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str) -> None:
    draw.text((corner[0], corner[1] - _LABEL), text, fill=_MUTED, font=ImageFont.load_default(15))
