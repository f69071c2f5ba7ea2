"""The cached tokens of one image, and the part of them that a request receives."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from visionsplit.grid import TileGrid
from visionsplit.wire.tensors import TokenTensor, concatenate
from visionsplit.wire.vision_tokens import Positions

from encoder_service.caching.key import serves_smaller
from encoder_service.compression import Composition
from encoder_service.compression.geometry import canonical, geometry_of
from encoder_service.compression.shares import measure, pooled_tokens, share_out
from encoder_service.device.encoding import EncodedTiles

_OVERHEAD = 2048  # bytes of an entry besides its arrays, roughly


@dataclass(frozen=True)
class CachedTokens:
    """One image's kept tokens in wire format, tile after tile, the tokens of each tile in picking order.

    The wire format is stored, not the vision tower's output: it is up to four times smaller, a hit needs no conversion,
    and the last bits of a conversion on a GPU need not be reproduced on a CPU. Each row is converted by itself, so any
    of the rows may be left out.
    """

    grid: TileGrid
    budgets: tuple[int, ...]  # tokens per tile, thumbnail first
    quotas: tuple[int, ...] | None  # per tile, if quotas were requested; those of other ratios follow from `evidence`
    features: TokenTensor  # [K, Dv]
    positions: Positions  # [K, 3]
    evidence: NDArray[np.float32] | None  # [P], the thumbnail's scores, if the budgets are computed from them
    ranks: NDArray[np.int32] | None  # [K], the order in which tokens were picked, if all tiles compete for one budget

    @property
    def num_bytes(self) -> int:
        arrays = [array for array in (self.positions, self.evidence, self.ranks) if array is not None]
        return self.features.num_bytes + sum(array.nbytes for array in arrays) + _OVERHEAD

    @classmethod
    def of(cls, grid: TileGrid, results: Sequence[EncodedTiles]) -> "CachedTokens":
        """Combine all results of encoding one image, in the order of its tiles."""
        parts = [result for result in results if result.features.rows]
        evidence = next((result.evidence for result in results if result.evidence is not None), None)
        ranks = [result.ranks for result in parts if result.ranks is not None]
        return cls(
            grid,
            tuple(results[-1].budgets),
            tuple(results[-1].quotas) if results[-1].quotas is not None else None,
            concatenate([part.features for part in parts]),
            np.concatenate([part.positions for part in parts]),
            evidence,
            np.concatenate(ranks) if ranks else None,
        )

    def covers(self, other: "CachedTokens") -> bool:
        """Whether this entry also serves every request that `other` serves."""
        return all(own >= others for own, others in zip(self.budgets, other.budgets, strict=True))

    def restrict_to(self, composition: Composition, device: torch.device) -> EncodedTiles | None:
        """Return what encoding the image again would give, all tiles at once; None if the entry lacks some of it.

        Args:
            composition: the request's compression; this entry was found under its key.
            device: the vision tower's device. The budgets are computed on it, so that they equal the first ones.

        Raises:
            InvalidCompressionError: the request's ratio keeps no token.
        """
        if composition.retention_ratio == 1:  # one entry serves requests with quotas and without
            return self._tiles(None, list(self.budgets), list(self.budgets) if composition.quotas_only else None)
        if not serves_smaller(composition):
            return self._tiles(None, list(self.budgets), None if self.quotas is None else list(self.quotas))
        geometry = geometry_of(canonical(self.grid), composition.geometry_rules, device)
        measured: list[float] = []
        if self.evidence is not None:
            measured = measure(composition, geometry, torch.from_numpy(self.evidence).to(device)).tolist()
        shares = share_out(composition, geometry, measured)
        if composition.quotas_only:
            return self._tiles(None, list(self.budgets), shares.tokens)
        if composition.budget.pooled:
            return self._foremost(pooled_tokens(geometry.counts, shares.ratios))
        return self._prefixes(shares.tokens)

    def _prefixes(self, budgets: list[int]) -> EncodedTiles | None:
        """The first tokens of each tile."""
        if any(wanted > own for wanted, own in zip(budgets, self.budgets, strict=True)):
            return None
        starts = np.cumsum((0, *self.budgets[:-1]))
        rows = [np.arange(start, start + number) for start, number in zip(starts, budgets, strict=True)]
        return self._tiles(np.concatenate(rows), budgets, None)

    def _foremost(self, number: int) -> EncodedTiles | None:
        """The tokens that were picked first over all tiles."""
        if self.ranks is None or number > len(self.ranks):
            return None
        rows = np.flatnonzero(self.ranks < number)
        budgets = np.bincount(self.positions[rows, 0], minlength=self.grid.num_tiles)
        return self._tiles(rows, budgets.tolist(), None)

    def _tiles(self, rows: NDArray[np.intp] | None, budgets: list[int], quotas: list[int] | None) -> EncodedTiles:
        """Select rows in ascending order; None selects all."""
        features, positions = self.features, self.positions
        if rows is not None and len(rows) < features.rows:
            features, positions = _rows(features, rows), positions[rows]
        return EncodedTiles(self.grid.num_tiles, budgets, quotas, features, positions, time.monotonic(), 0.0)


def _rows(tensor: TokenTensor, rows: NDArray[np.intp]) -> TokenTensor:
    data = np.frombuffer(tensor.data, np.uint8).reshape(tensor.rows, -1)[rows].tobytes()
    scales = np.frombuffer(tensor.scales, "<f4")[rows].tobytes() if tensor.scales else b""
    return TokenTensor(tensor.data_type, len(rows), tensor.columns, data, scales)
