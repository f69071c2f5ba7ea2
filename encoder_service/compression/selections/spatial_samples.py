"""The best tokens, and samples at even distances in the tile's raster.

Source: PruMerge+ (arXiv 2403.15388) and its published code.
"""

from collections.abc import Sequence

import torch
from visionsplit.options.parameters import Parameters

from encoder_service.compression.base import Picks, Selection
from encoder_service.compression.candidates import Candidates


class SpatialSamplesSelection(Selection):
    """The tokens of highest worth, then every n-th token of the raster that is not among them.

    With r the share that the budget grants a tile of N tokens: if r was requested, the samples are
    range(int(n / 2), N - 1, n) with n = int(1 / r); if it was computed from the image, range(0, N - 1, n) with
    n = int(int(1 / r) / 3), at least 1. So a tile keeps about two to four times as many tokens as its budget says,
    which requests that compare methods at one number of tokens have to take into account.

    Departures from the published code, which handles neither padding nor, in the adaptive form, several views: the
    raster consists of the tile's valid cells, separately for each tile; a sample that is among the best tokens is kept
    once, while the code's fixed form repeats it; a tile whose budget is 0 gets no samples either.
    """

    name = "spatial_samples"
    description = (
        "The tokens of highest score, and more than the budget: samples evenly spread beside them (PruMerge+)."
    )
    own_counts = True

    def pick(self, candidates: Candidates, budgets: Sequence[int], parameters: Parameters) -> Picks:
        worth, adaptive = candidates.worth, candidates.adaptive
        size = worth.shape[1]
        columns = torch.arange(size, device=worth.device)  # [C]
        ranks = torch.sort(torch.sort(worth, dim=1, descending=True, stable=True).indices, dim=1).indices  # [t, C]
        best = [budget - extra for budget, extra in zip(budgets, candidates.extras, strict=True)]
        lasting = ranks < torch.tensor(best, device=worth.device)[:, None]  # [t, C]
        sampled = torch.zeros_like(lasting)
        for row, (share, count, number) in enumerate(zip(candidates.shares, candidates.counts, best, strict=True)):
            if number:
                first, step = _raster(share, adaptive=adaptive)
                sampled[row, first : max(count - 1, first) : step] = True
        sampled &= ~lasting
        # The best by worth, the samples in raster order, the rest by worth; padding is last.
        keys = torch.where(sampled, size + columns, torch.where(lasting, ranks, ranks + 2 * size))
        kept = (lasting | sampled).sum(dim=1).tolist()
        extras = [
            min(extra, count - number)
            for extra, count, number in zip(candidates.extras, candidates.counts, kept, strict=True)
        ]
        counts = [number + extra for number, extra in zip(kept, extras, strict=True)]
        return Picks(torch.sort(keys, dim=1).indices, counts, extras)


def _raster(share: float, *, adaptive: bool) -> tuple[int, int]:
    """The first sample and the distance to the next."""
    distance = int(1 / share)
    return (0, max(int(distance / 3), 1)) if adaptive else (int(distance / 2), distance)
