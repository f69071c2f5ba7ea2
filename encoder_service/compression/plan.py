"""One image's compression, run as its tiles come out of the vision tower."""

import math

import torch
from visionsplit.errors import InternalError, InvalidCompressionError
from visionsplit.grid import Layout, TileGrid

from encoder_service.compression.base import Composition
from encoder_service.compression.geometry import canonical, geometry_of


class Plan:
    """What one image keeps: the budgets once the thumbnail's scores are known, then the tokens of each tile.

    T tiles of P cells. Everything stays on the device but the few numbers that decide the budgets; those cross once,
    in `start`.
    """

    def __init__(self, composition: Composition, grid: TileGrid, device: torch.device) -> None:
        self._composition = composition
        self._grid = grid
        reference = composition.layout is Layout.REFERENCE
        self._geometry = geometry_of(canonical(grid), reference_layout=reference, device=device)
        self._guidance: torch.Tensor | None = None  # [T - 1, P]
        self._padding = self._geometry.padding if self._geometry.padded else None  # [T, P]
        self._started = False
        self.budgets: list[int] = []  # tokens per tile, thumbnail first; empty until `start`
        self.ratios: list[float] | None = None  # per tile; None until `start` and where nothing is pruned

    def start(self, thumbnail: torch.Tensor | None) -> None:
        """Fix the budgets from the thumbnail's scores [P] float32, which may be None where nothing is pruned.

        Raises:
            InvalidCompressionError: not one token would be kept.
            InternalError: the scores are not finite.
        """
        if self._composition.keeps_everything:
            self.budgets = list(self._geometry.counts)
            self._started = True
            return
        if thumbnail is None:
            raise InternalError("the compression method needs scores and the vision tower gave none")
        ratio = self._composition.retention_ratio
        crops = self._composition.budget.ratios(thumbnail, self._geometry, ratio, self._composition.parameters)
        self.ratios = [ratio, *crops]
        if not all(map(math.isfinite, self.ratios)):
            raise InternalError("the vision tower's scores are not finite")
        self.budgets = [int(count * share) for count, share in zip(self._geometry.counts, self.ratios, strict=True)]
        if not any(self.budgets):
            raise InvalidCompressionError(
                f"retention_ratio {ratio} keeps none of the image's {sum(self._geometry.counts)} tokens"
            )
        self._guidance = self._composition.score.guidance(thumbnail, self._geometry)
        self._started = True

    def choose(self, first_tile: int, stop_tile: int, scores: torch.Tensor | None) -> torch.Tensor:
        """The kept cells of tiles [first_tile, stop_tile), after `start`.

        Args:
            first_tile: the first of some consecutive tiles.
            stop_tile: one past the last of them.
            scores: theirs, [t, P] float32; may be None where nothing is pruned.

        Returns:
            [K] int64, tile after tile in picking order, each as tile * P + row * side + column.
        """
        if not self._started:
            raise InternalError("tokens were asked for before the budgets were known")
        numbers = self._geometry.numbers[first_tile:stop_tile]  # [t, P]
        if scores is not None and not self._composition.keeps_everything:
            worth = self._worth(first_tile, stop_tile, scores)
            numbers = numbers.gather(1, self._composition.selection.order(worth, self._composition.parameters))
        budgets = self.budgets[first_tile:stop_tile]
        return torch.cat([row[:budget] for row, budget in zip(numbers.unbind(), budgets, strict=True)])

    def positions(self, numbers: torch.Tensor) -> torch.Tensor:
        """Tile, row and column within the tile, [K, 3] int64, of cells as `choose` gives them."""
        tile, cell = numbers // self._grid.cells_per_tile, numbers % self._grid.cells_per_tile
        return torch.stack((tile, cell // self._grid.side, cell % self._grid.side), dim=1)

    def _worth(self, first_tile: int, stop_tile: int, scores: torch.Tensor) -> torch.Tensor:
        """The worth of every cell in the geometry's order, [t, P]; padding is worth minus infinity.

        The thumbnail's tokens are worth their own scores, the crops' what the composition's score says.
        """
        own = scores.gather(1, self._geometry.cells[first_tile:stop_tile]) if self._geometry.padded else scores
        first_crop = max(first_tile, 1)
        crops = own[first_crop - first_tile :]  # [c, P]
        guidance = None if self._guidance is None else self._guidance[first_crop - 1 : stop_tile - 1]
        padding = None if self._padding is None else self._padding[first_crop:stop_tile]
        worth = self._composition.score.rate(crops, guidance, padding, self._composition.parameters)
        if padding is not None:
            worth = worth.masked_fill(padding, -math.inf)
        return worth if first_tile else torch.cat((own[:1], worth))
