"""The geometry of dynamic cropping: the arrangement of tiles on the canvas, and the cells that show image."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any


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
    `valid` is the part of the canvas whose cells are tokens. Where padding is left out, that is the part that shows
    image; it may be empty for an extremely long strip. An image may have no crops at all: 0 rows and 0 columns.

    Crops may cover fewer than side x side cells of the canvas, where a model pools the canvas to fewer cells. Then the
    bounds say where the rows and columns of crops begin on the canvas, and the cells of a crop are the first of its
    tile's rows and columns.
    """

    side: int
    rows: int
    columns: int
    image_height: int  # pixels
    image_width: int  # pixels
    valid: Region  # canvas cells
    row_bounds: tuple[int, ...] = ()  # canvas rows where rows of crops begin, and the end; () if all are `side` high
    column_bounds: tuple[int, ...] = ()  # the same of columns

    @classmethod
    def squashed(cls, image_height: int, image_width: int, *, rows: int, columns: int, side: int) -> "TileGrid":
        """The grid of an image that is resized to fill all its crops, or of a thumbnail alone (0 rows, 0 columns)."""
        return cls(side, rows, columns, image_height, image_width, Region(0, rows * side, 0, columns * side))

    @classmethod
    def padded(
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

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> "TileGrid":
        """The grid that `dataclasses.asdict` took apart, also after a passage through JSON.

        Raises:
            TypeError: the values are not a grid's.
        """
        bounds = {name: tuple(values.get(name, ())) for name in ("row_bounds", "column_bounds")}
        return cls(**{**values, "valid": Region(**values["valid"]), **bounds})

    @cached_property
    def crop_rows(self) -> tuple[int, ...]:
        """Canvas rows where the rows of crops begin, and the end of the last."""
        return self.row_bounds or tuple(range(0, (self.rows + 1) * self.side, self.side))

    @cached_property
    def crop_columns(self) -> tuple[int, ...]:
        """Canvas columns where the columns of crops begin, and the end of the last."""
        return self.column_bounds or tuple(range(0, (self.columns + 1) * self.side, self.side))

    @property
    def canvas_height(self) -> int:
        return self.crop_rows[-1]

    @property
    def canvas_width(self) -> int:
        return self.crop_columns[-1]

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
        """The tile's cells that are tokens, in rows and columns of the tile. The thumbnail has no padding."""
        if tile == 0:
            return Region(0, self.side, 0, self.side)
        row, column = divmod(tile - 1, self.columns)
        return Region(
            *_clip(self.valid.top, self.valid.bottom, *self.crop_rows[row : row + 2]),
            *_clip(self.valid.left, self.valid.right, *self.crop_columns[column : column + 2]),
        )

    def valid_counts(self) -> list[int]:
        """The number of valid cells of each tile, thumbnail first."""
        return [self.valid_in_tile(tile).area for tile in range(self.num_tiles)]


def _to_cells(length: float, rule: UnpadRule) -> int:
    return int(round(length, 7)) if rule is UnpadRule.HUGGING_FACE else int(length)


def _clip(start: int, stop: int, origin: int, end: int) -> tuple[int, int]:
    """The part of [start, stop) inside [origin, end), relative to origin; empty as (k, k)."""
    low = min(max(start - origin, 0), end - origin)
    return low, max(min(stop, end) - origin, low)
