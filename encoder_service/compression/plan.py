"""Compresses one image while its tiles come out of the vision tower."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from visionsplit.grid import TileGrid

from encoder_service.compression.base import Composition, Picks
from encoder_service.compression.candidates import Candidates
from encoder_service.compression.features import TileFeatures, TowerOutput
from encoder_service.compression.geometry import canonical, geometry_of
from encoder_service.compression.shares import pooled_tokens, share_out


@dataclass(frozen=True)
class KeptTokens:
    """Some kept tokens of one image, tile after tile, the tokens of each tile in picking order."""

    numbers: torch.Tensor  # [K] int64: tile * P + row * side + column
    features: torch.Tensor  # [K, Dv]
    sound: torch.Tensor  # [] bool, whether all values that decided the choice are finite
    ranks: torch.Tensor | None = None  # [K] int64, the order of picking over all tiles, if these compete


_Chosen = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]  # of kept tokens: numbers [K], features [K, Dv], ranks


class Plan:
    """The choice for one image: first the budgets, once their evidence is known, then the tokens of each tile.

    T tiles of P cells. All data stays on the device except the few numbers that decide the budgets, which are copied
    once.
    """

    def __init__(self, composition: Composition, grid: TileGrid, device: torch.device) -> None:
        self._composition = composition
        self._grid = grid
        reference = composition.layout == "reference"
        self._geometry = geometry_of(canonical(grid), reference_layout=reference, device=device)
        self._guidance: torch.Tensor | None = None  # [T - 1, P]
        self._padding = self._geometry.padding if self._geometry.padded else None  # [T, P]
        self._held: list[TileFeatures] = []  # kept while a composition waits for the whole image
        self._started = False
        self._extras: list[int] = []  # tokens per tile that a merging adds to represent the dropped ones
        self.budgets: list[int] = []  # tokens per tile, thumbnail first; empty until the first tokens have been chosen
        self.ratios: list[float] | None = None  # per tile; None until then, and if nothing is pruned
        self.quotas: list[int] | None = None  # tokens per tile, if only these were requested
        self.evidence: torch.Tensor | None = None  # [P], the thumbnail's scores, if the ratios are computed from them

    def take(self, first_tile: int, stop_tile: int, encoded: TileFeatures) -> KeptTokens | None:
        """Choose the tokens of the next tiles, [first_tile, stop_tile).

        Returns None while the composition waits for the rest of the image; the last tiles then give all tokens.

        Raises:
            InvalidCompressionError: no token would be kept.
            InternalError: the values that decide the budgets are not finite.
        """
        if self._composition.waits_for_image:
            # The batch may have contained images that need more tower outputs than this one; other batches may not.
            needed = {output: encoded.outputs[output] for output in self._composition.needs}
            self._held.append(TileFeatures(encoded.features, needed))
            if stop_tile < self._grid.num_tiles:
                return None
            first_tile, encoded = 0, _joined(self._held)
            self._held = []
        if not self._started:
            self._start(encoded)
        if not self._composition.prunes:
            chosen = self._keep_all(first_tile, stop_tile, encoded)
        elif self._composition.budget.pooled:
            chosen = self._choose_pooled(encoded)
        else:
            chosen = self._choose(first_tile, stop_tile, encoded)
        numbers, features, ranks = chosen
        return KeptTokens(numbers, features, self._sound(encoded), ranks)

    def positions(self, numbers: torch.Tensor) -> torch.Tensor:
        """Tile, row and column within the tile, [K, 3] int64, of cell numbers from `take`."""
        tile, cell = numbers // self._grid.cells_per_tile, numbers % self._grid.cells_per_tile
        return torch.stack((tile, cell // self._grid.side, cell % self._grid.side), dim=1)

    def _start(self, encoded: TileFeatures) -> None:
        """Fix the budgets, from the outputs of the thumbnail or of all tiles."""
        self._started = True
        composition, counts = self._composition, self._geometry.counts
        self.budgets = list(counts)
        if composition.retention_ratio == 1:
            self.quotas = list(counts) if composition.quotas_only else None
            return
        budget = composition.budget
        source = None if budget.source is None else encoded.outputs[budget.source]
        if source is not None and not budget.whole_image:
            source = self.evidence = source[0]
        shares = share_out(composition, self._geometry, source)
        self.ratios, kept = shares.ratios, shares.tokens
        if composition.quotas_only:
            self.quotas = kept
            return
        self._extras = [self._extra(number, count) for number, count in zip(kept, counts, strict=True)]
        self.budgets = [number + extra for number, extra in zip(kept, self._extras, strict=True)]
        if composition.score.source is not None:
            thumbnail = encoded.outputs[composition.score.source][0]
            self._guidance = composition.score.guidance(thumbnail, self._geometry)

    def _extra(self, number: int, count: int) -> int:
        """The extra tokens of a row that keeps a number of its valid cells, to represent dropped tokens if any."""
        merging = self._composition.merging
        return 0 if merging is None or not number else min(merging.extra, count - number)

    def _keep_all(self, first_tile: int, stop_tile: int, encoded: TileFeatures) -> _Chosen:
        numbers = self._geometry.numbers[first_tile:stop_tile]  # [t, P]
        counts = self._geometry.counts[first_tile:stop_tile]
        kept = torch.cat([row[:count] for row, count in zip(numbers.unbind(), counts, strict=True)])
        return kept, self._features(first_tile, encoded, kept), None

    def _choose(self, first_tile: int, stop_tile: int, encoded: TileFeatures) -> _Chosen:
        """Choose in each tile separately."""
        cells = self._geometry.cells[first_tile:stop_tile] if self._geometry.padded else None  # [t, P]
        assert self.ratios is not None, "the budgets come first"
        candidates = Candidates(
            self._worth(first_tile, stop_tile, encoded),
            self._geometry.counts[first_tile:stop_tile],
            cells,
            encoded.features,
            encoded.outputs,
            worth_is_weight=self._composition.score.is_weight,
            shares=tuple(self.ratios[first_tile:stop_tile]),
            extras=tuple(self._extras[first_tile:stop_tile]),
            adaptive=self._composition.budget.adaptive,
        )
        picks, features = self._pick(candidates, self.budgets[first_tile:stop_tile])
        if self._composition.selection.own_counts:
            self.budgets = list(picks.counts)
        numbers = self._geometry.numbers[first_tile:stop_tile].gather(1, picks.order)  # [t, m]
        kept = torch.cat([row[:count] for row, count in zip(numbers.unbind(), picks.counts, strict=True)])
        return kept, self._features(first_tile, encoded, kept) if features is None else features, None

    def _choose_pooled(self, encoded: TileFeatures) -> _Chosen:
        """Choose among all tiles' tokens, which form one row of candidates, valid cells first."""
        counts = self._geometry.counts
        assert self.ratios is not None, "the budgets come first"
        total = sum(counts)
        number = pooled_tokens(counts, self.ratios)
        extra = self._extra(number, total)
        valid = torch.argsort(self._geometry.padding.flatten().to(torch.int8), stable=True)  # [T * P]
        row = self._geometry.numbers.flatten()[valid][None]  # [1, T * P]
        candidates = Candidates(
            self._worth(0, self._grid.num_tiles, encoded).flatten()[valid][None],
            (total,),
            row,
            encoded.features.flatten(0, 1)[None],
            {name: output.flatten(0, 1)[None] for name, output in encoded.outputs.items()},
            worth_is_weight=self._composition.score.is_weight,
            shares=(self.ratios[0],),
            extras=(extra,),
            adaptive=self._composition.budget.adaptive,
        )
        picks, features = self._pick(candidates, [number + extra])
        numbers = row[0].gather(0, picks.order[0, : picks.counts[0]])  # [K], best first
        tiles, by_tile = torch.sort(numbers // self._grid.cells_per_tile, stable=True)
        self.budgets = torch.bincount(tiles, minlength=self._grid.num_tiles).tolist()
        kept = numbers[by_tile]
        return kept, self._features(0, encoded, kept) if features is None else features[by_tile], by_tile

    def _pick(self, candidates: Candidates, budgets: Sequence[int]) -> tuple[Picks, torch.Tensor | None]:
        """The picks, and their features [K, Dv] if a merging changes them."""
        composition = self._composition
        picks = composition.selection.pick(candidates, budgets, composition.parameters)
        if composition.merging is None:
            return picks, None
        return picks, composition.merging.merge(candidates, picks, composition.parameters)

    def _sound(self, encoded: TileFeatures) -> torch.Tensor:
        """Whether the scores are finite, [] bool, on the device: reading it here would wait for the forward pass."""
        finite = [torch.isfinite(encoded.outputs[output]).all() for output in self._composition.needs]
        return torch.stack(finite).all() if finite else torch.ones((), dtype=torch.bool, device=encoded.features.device)

    def _features(self, first_tile: int, encoded: TileFeatures, numbers: torch.Tensor) -> torch.Tensor:
        """Features [K, Dv] of cells, where `encoded` begins with tile `first_tile`."""
        rows = encoded.features.reshape(-1, encoded.features.shape[-1])  # [t * P, Dv]
        return rows.index_select(0, numbers - first_tile * self._grid.cells_per_tile)

    def _worth(self, first_tile: int, stop_tile: int, encoded: TileFeatures) -> torch.Tensor:
        """The worth of every cell in the geometry's order, [t, P]; padding is worth minus infinity.

        The thumbnail's tokens are rated by their own scores, the crops' by the composition's score; a score for the
        whole image rates all of them.
        """
        score, padding = self._composition.score, self._padding
        if score.source is None:
            worth = torch.zeros(encoded.features.shape[:2], device=encoded.features.device)  # [t, P]
            return worth if padding is None else worth.masked_fill(padding[first_tile:stop_tile], -math.inf)
        own = encoded.outputs[score.source].float()  # [t, P]
        own = own.gather(1, self._geometry.cells[first_tile:stop_tile]) if self._geometry.padded else own
        first = first_tile if score.whole_image else max(first_tile, 1)
        guidance = None if self._guidance is None else self._guidance[first - 1 : stop_tile - 1]
        rated_padding = None if padding is None else padding[first:stop_tile]
        worth = score.rate(own[first - first_tile :], guidance, rated_padding, self._composition.parameters)  # [c, P]
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
