"""The geometry of dynamic cropping: the arrangement of tiles on the canvas, and the cells that show image."""

import enum
from dataclasses import dataclass


class UnpadRule(enum.Enum):
    """How the padding around the resized image is converted from pixels to cells.

    The rules differ by one cell where the scaled side should be a whole number and floating point misses it slightly.
    """

    HUGGING_FACE = "int(round(x, 7))"
    REFERENCE = "int(x)"  # GlobalCom2's published code


@dataclass(frozen=True)
class Region:
    """A rectangle of cells, half-open."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def area(self) -> int:
        return self.height * self.width


@dataclass(frozen=True)
class TileGrid:
    """How one image was cut: a thumbnail (tile 0) and rows x columns crops (tiles 1..n, row-major).

    A cell is one vision token; a tile has side x side cells. The crops, arranged in their grid, form the canvas.
    `valid` is the part of the canvas that shows image instead of padding; it may be empty for an extremely long strip.
    """

    side: int
    rows: int
    columns: int
    image_height: int  # pixels
    image_width: int  # pixels
    valid: Region  # canvas cells

    @classmethod
    def for_image(
        cls,
        image_height: int,
        image_width: int,
        *,
        rows: int,
        columns: int,
        side: int,
        rule: UnpadRule = UnpadRule.HUGGING_FACE,
    ) -> "TileGrid":
        """The grid of an image that is resized to fit rows x columns crops and padded equally on two opposite sides."""
        canvas_height, canvas_width = rows * side, columns * side
        top, left = 0, 0
        if image_width / image_height > canvas_width / canvas_height:
            scaled = _to_cells(image_height * (canvas_width / image_width), rule)
            top = (canvas_height - scaled) // 2
        else:
            scaled = _to_cells(image_width * (canvas_height / image_height), rule)
            left = (canvas_width - scaled) // 2
        valid = Region(top, canvas_height - top, left, canvas_width - left)
        return cls(side, rows, columns, image_height, image_width, valid)

    @property
    def canvas_height(self) -> int:
        return self.rows * self.side

    @property
    def canvas_width(self) -> int:
        return self.columns * self.side

    @property
    def num_crops(self) -> int:
        return self.rows * self.columns

    @property
    def num_tiles(self) -> int:
        return 1 + self.num_crops

    @property
    def cells_per_tile(self) -> int:
        return self.side * self.side

    def valid_in_tile(self, tile: int) -> Region:
        """The tile's cells that show image, in rows and columns of the tile. The thumbnail has no padding."""
        if tile == 0:
            return Region(0, self.side, 0, self.side)
        row, column = divmod(tile - 1, self.columns)
        return Region(
            *_clip(self.valid.top, self.valid.bottom, row * self.side, self.side),
            *_clip(self.valid.left, self.valid.right, column * self.side, self.side),
        )

    def valid_counts(self) -> list[int]:
        """The number of valid cells of each tile, thumbnail first."""
        return [self.valid_in_tile(tile).area for tile in range(self.num_tiles)]


def _to_cells(length: float, rule: UnpadRule) -> int:
    return int(round(length, 7)) if rule is UnpadRule.HUGGING_FACE else int(length)


def _clip(start: int, stop: int, origin: int, length: int) -> tuple[int, int]:
    """The part of [start, stop) inside [origin, origin + length), relative to origin; empty as (k, k)."""
    low = min(max(start - origin, 0), length)
    return low, max(min(stop - origin, length), low)
