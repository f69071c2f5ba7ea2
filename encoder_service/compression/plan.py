"""Compresses one image while its tiles come out of the vision tower."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from visionsplit.families.tower_outputs import TileFeatures, TowerOutput, all_finite
from visionsplit.grid import TileGrid

from encoder_service.compression.base import Composition, Picks
from encoder_service.compression.candidates import Candidates
from encoder_service.compression.geometry import canonical, geometry_of
from encoder_service.compression.shares import measure, pooled_tokens, share_out


@dataclass(frozen=True)
class KeptTokens:
    """Some kept tokens of one image, tile after tile, the tokens of each tile in picking order."""

    numbers: torch.Tensor  # [K] int64: tile * P + row * side + column
    features: torch.Tensor  # [K, Dv]
    sound: torch.Tensor  # [] bool, whether all values that decided the choice are finite
    ranks: torch.Tensor | None = None  # [K] int64, the order of picking over all tiles, if these compete


@dataclass(frozen=True)
class Arrived:
    """Tiles of one image that are ready to be chosen from."""

    first_tile: int
    stop_tile: int
    encoded: TileFeatures  # of these tiles


@dataclass(frozen=True)
class Choice:
    """What a selection has to choose: some tiles' tokens, or all of the image's in one row."""

    candidates: Candidates
    budgets: list[int]  # of each row
    row: torch.Tensor | None = None  # [1, T * P], the cells of a single row for all tiles


_Chosen = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]  # of kept tokens: numbers [K], features [K, Dv], ranks


class Plan:
    """The choice for one image: first the budgets, once their evidence is known, then the tokens of each tile.

    T tiles of P cells. All data stays on the device except the few numbers that decide the budgets. `take_together`
    (together.py) calls the steps, for all images of a batch at once.
    """

    def __init__(
        self,
        composition: Composition,
        grid: TileGrid,
        device: torch.device,
        whole: Callable[[TileGrid, TileFeatures], TileFeatures] | None = None,
    ) -> None:
        """`whole` makes the final features of all tiles, where these depend on each other."""
        self.composition = composition
        self._grid = grid
        self._whole = whole
        self._geometry = geometry_of(canonical(grid), composition.geometry_rules, device)
        self._guidance: torch.Tensor | None = None  # [T - 1, P]
        self._padding = self._geometry.padding if self._geometry.padded else None  # [T, P]
        self._held: list[TileFeatures] = []  # kept while a composition waits for the whole image
        self._extras: list[int] = []  # tokens per tile that a merging adds to represent the dropped ones
        self.budgets: list[int] = []  # tokens per tile, thumbnail first; empty until the first tokens have been chosen
        self.ratios: list[float] | None = None  # per tile; None until then, and if nothing is pruned
        self.quotas: list[int] | None = None  # tokens per tile, if only these were requested
        self.evidence: torch.Tensor | None = None  # [P], the thumbnail's scores, if the ratios are computed from them

    @property
    def waits_for_image(self) -> bool:
        """Whether all tokens of the image are chosen at once, when its last tile has been encoded."""
        return self.composition.waits_for_image or self._whole is not None

    def arrive(self, first_tile: int, stop_tile: int, encoded: TileFeatures) -> Arrived | None:
        """Take the next tiles, [first_tile, stop_tile).

        Returns None while the image's tokens wait for its other tiles; with the last tiles all of them have arrived.
        `together.take_together` then calls `measure`, `decide`, `choice` and `kept`, in this order.
        """
        if not self.waits_for_image:
            return Arrived(first_tile, stop_tile, encoded)
        # The batch may have contained images that need more tower outputs than this one; other batches may not.
        needed = {output: encoded.outputs[output] for output in self.composition.needs}
        self._held.append(TileFeatures(encoded.features, needed))
        if stop_tile < self._grid.num_tiles:
            return None
        held, self._held = self._held, []
        joined = _joined(held)
        return Arrived(0, stop_tile, joined if self._whole is None else self._whole(self._grid, joined))

    def measure(self, arrived: Arrived) -> torch.Tensor | None:
        """The numbers that decide the budgets, [n] float64 on the device; None if nothing has to be read."""
        budget = self.composition.budget
        if self.budgets or self.composition.retention_ratio == 1 or budget.source is None:
            return None
        source = arrived.encoded.outputs[budget.source]
        if not budget.whole_image:
            source = self.evidence = source[0]
        return measure(self.composition, self._geometry, source)

    def decide(self, arrived: Arrived, measured: Sequence[float]) -> None:
        """Fix the budgets by what `measure` gave; has no effect once they are fixed.

        Raises:
            InvalidCompressionError: no token would be kept.
            InternalError: the numbers are not finite.
        """
        if self.budgets:
            return
        composition, counts = self.composition, self._geometry.counts
        if composition.retention_ratio == 1:
            self.quotas = list(counts) if composition.quotas_only else None
            self.budgets = list(counts)
            return
        shares = share_out(composition, self._geometry, measured)
        self.ratios, kept = shares.ratios, shares.tokens
        if composition.quotas_only:
            self.quotas = kept
            self.budgets = list(counts)
            return
        self._extras = [self._extra(number, count) for number, count in zip(kept, counts, strict=True)]
        self.budgets = [number + extra for number, extra in zip(kept, self._extras, strict=True)]
        if composition.score.source is not None and self._grid.num_crops:
            thumbnail = arrived.encoded.outputs[composition.score.source][0]
            self._guidance = composition.score.guidance(thumbnail, self._geometry)

    def choice(self, arrived: Arrived) -> Choice | None:
        """What the selection has to choose; None if every token is kept."""
        if not self.composition.prunes:
            return None
        return self._pooled_choice(arrived) if self.composition.budget.pooled else self._choice(arrived)

    def kept(self, arrived: Arrived, choice: Choice | None, picks: Picks | None) -> KeptTokens:
        """The kept tokens, given what the selection picked of the choice."""
        if choice is None or picks is None:
            chosen = self._keep_all(arrived)
        elif choice.row is None:
            chosen = self._kept_by_tile(arrived, choice, picks)
        else:
            chosen = self._kept_of_image(arrived, choice, choice.row, picks)
        numbers, features, ranks = chosen
        return KeptTokens(numbers, features, self._sound(arrived.encoded), ranks)

    def positions(self, numbers: torch.Tensor) -> torch.Tensor:
        """Tile, row and column within the tile, [K, 3] int64, of cell numbers from `take`."""
        tile, cell = numbers // self._grid.cells_per_tile, numbers % self._grid.cells_per_tile
        return torch.stack((tile, cell // self._grid.side, cell % self._grid.side), dim=1)

    def _extra(self, number: int, count: int) -> int:
        """The extra tokens of a row that keeps a number of its valid cells, to represent dropped tokens if any."""
        merging = self.composition.merging
        return 0 if merging is None or not number else min(merging.extra, count - number)

    def _keep_all(self, arrived: Arrived) -> _Chosen:
        tiles = slice(arrived.first_tile, arrived.stop_tile)
        rows = zip(self._geometry.numbers[tiles].unbind(), self._geometry.counts[tiles], strict=True)
        kept = torch.cat([row[:count] for row, count in rows])
        return kept, self._features(arrived, kept), None

    def _choice(self, arrived: Arrived) -> Choice:
        """A choice in each tile separately."""
        tiles = slice(arrived.first_tile, arrived.stop_tile)
        assert self.ratios is not None, "the budgets come first"
        candidates = Candidates(
            self._worth(arrived),
            self._geometry.counts[tiles],
            self._geometry.cells[tiles] if self._geometry.padded else None,
            arrived.encoded.features,
            arrived.encoded.outputs,
            worth_is_weight=self.composition.score.is_weight,
            shares=tuple(self.ratios[tiles]),
            extras=tuple(self._extras[tiles]),
            adaptive=self.composition.budget.adaptive,
        )
        return Choice(candidates, self.budgets[tiles])

    def _kept_by_tile(self, arrived: Arrived, choice: Choice, picks: Picks) -> _Chosen:
        if self.composition.selection.own_counts:
            self.budgets = list(picks.counts)
        numbers = self._geometry.numbers[arrived.first_tile : arrived.stop_tile].gather(1, picks.order)  # [t, m]
        kept = torch.cat([row[:count] for row, count in zip(numbers.unbind(), picks.counts, strict=True)])
        merged = self._merged(choice.candidates, picks)
        return kept, self._features(arrived, kept) if merged is None else merged, None

    def _pooled_choice(self, arrived: Arrived) -> Choice:
        """A choice among all tiles' tokens, which form one row of candidates, valid cells first."""
        counts, encoded = self._geometry.counts, arrived.encoded
        assert self.ratios is not None, "the budgets come first"
        total = sum(counts)
        number = pooled_tokens(counts, self.ratios)
        extra = self._extra(number, total)
        valid = torch.argsort(self._geometry.padding.flatten().to(torch.int8), stable=True)  # [T * P]
        row = self._geometry.numbers.flatten()[valid][None]  # [1, T * P]
        candidates = Candidates(
            self._worth(arrived).flatten()[valid][None],
            (total,),
            row,
            encoded.features.flatten(0, 1)[None],
            {name: output.flatten(0, 1)[None] for name, output in encoded.outputs.items()},
            worth_is_weight=self.composition.score.is_weight,
            shares=(self.ratios[0],),
            extras=(extra,),
            adaptive=self.composition.budget.adaptive,
        )
        return Choice(candidates, [number + extra], row)

    def _kept_of_image(self, arrived: Arrived, choice: Choice, row: torch.Tensor, picks: Picks) -> _Chosen:
        numbers = row[0].gather(0, picks.order[0, : picks.counts[0]])  # [K], best first
        tiles, by_tile = torch.sort(numbers // self._grid.cells_per_tile, stable=True)
        self.budgets = torch.bincount(tiles, minlength=self._grid.num_tiles).tolist()
        kept = numbers[by_tile]
        merged = self._merged(choice.candidates, picks)
        return kept, self._features(arrived, kept) if merged is None else merged[by_tile], by_tile

    def _merged(self, candidates: Candidates, picks: Picks) -> torch.Tensor | None:
        """The picks' features [K, Dv] if a merging changes them."""
        merging = self.composition.merging
        return None if merging is None else merging.merge(candidates, picks, self.composition.parameters)

    def _sound(self, encoded: TileFeatures) -> torch.Tensor:
        """Whether the scores are finite, [] bool, on the device: reading it here would wait for the forward pass."""
        finite = [all_finite(encoded.outputs[output]) for output in self.composition.needs]
        return reduce(torch.logical_and, finite) if finite else all_finite(encoded.features[:0])

    def _features(self, arrived: Arrived, numbers: torch.Tensor) -> torch.Tensor:
        """Features [K, Dv] of cells of the tiles that have arrived."""
        features = arrived.encoded.features
        rows = features.reshape(-1, features.shape[-1])  # [t * P, Dv]
        return rows.index_select(0, numbers - arrived.first_tile * self._grid.cells_per_tile)

    def _worth(self, arrived: Arrived) -> torch.Tensor:
        """The worth of every cell in the geometry's order, [t, P]; padding is worth minus infinity.

        The thumbnail's tokens are rated by their own scores, the crops' by the composition's score; a score for the
        whole image rates all of them.
        """
        score, padding = self.composition.score, self._padding
        first_tile, stop_tile, encoded = arrived.first_tile, arrived.stop_tile, arrived.encoded
        if score.source is None:
            worth = torch.zeros(encoded.features.shape[:2], device=encoded.features.device)  # [t, P]
            return worth if padding is None else worth.masked_fill(padding[first_tile:stop_tile], -math.inf)
        own = encoded.outputs[score.source].float()  # [t, P]
        own = own.gather(1, self._geometry.cells[first_tile:stop_tile]) if self._geometry.padded else own
        first = first_tile if score.whole_image else max(first_tile, 1)
        guidance = None if self._guidance is None else self._guidance[first - 1 : stop_tile - 1]
        rated_padding = None if padding is None else padding[first:stop_tile]
        worth = score.rate(own[first - first_tile :], guidance, rated_padding, self.composition.parameters)  # [c, P]
        if rated_padding is not None:
            worth = worth.masked_fill(rated_padding, -math.inf)
        return worth if first == first_tile else torch.cat((own[:1], worth))


def _joined(parts: list[TileFeatures]) -> TileFeatures:
    """Consecutive tiles as one batch; all of them have the same outputs."""
    if len(parts) == 1:
        return parts[0]
    outputs: dict[TowerOutput, torch.Tensor] = {
        name: torch.cat([part.outputs[name] for part in parts]) for name in parts[0].outputs
    }
    return TileFeatures(torch.cat([part.features for part in parts]), outputs)
