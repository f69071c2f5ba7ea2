"""The best tokens, and tokens evenly spread over the rest.

Source: VisionZip (arXiv 2412.04467) and its published code.
"""

from collections.abc import Sequence
from types import MappingProxyType

import torch
from visionsplit.options.parameters import Parameter, Parameters

from encoder_service.compression.base import Picks, Selection
from encoder_service.compression.candidates import Candidates

CONTEXTUAL_SHARE = Parameter(10 / 64, minimum=0, maximum=1)  # as in the paper's settings: 10 of 64, 20 of 128, ...


class DominantContextualSelection(Selection):
    """The tokens of highest worth ("dominant"), then tokens at even distances among all others ("contextual").

    Of a tile's budget m, c = int(m * contextual_share) are contextual: of the n tokens that are not dominant, in raster
    order, the first c of every max(1, n // c)-th, as in the published code. The pairs that the paper gives for 64, 128
    and 192 tokens (54 + 10, 108 + 20, 162 + 30) all have that share; for other budgets it gives none.

    Departure: the code also sends [CLS]; here it is not sent, since it has no position in the tile.
    """

    name = "dominant_contextual"
    description = "The tokens of highest score, and a share evenly spread over the other tokens (VisionZip)."
    parameters = MappingProxyType({"contextual_share": CONTEXTUAL_SHARE})

    def pick(self, candidates: Candidates, budgets: Sequence[int], parameters: Parameters) -> Picks:
        worth = candidates.worth
        size = worth.shape[1]
        contextual = [contextual_number(budget, parameters["contextual_share"]) for budget in budgets]
        dominant = [budget - number for budget, number in zip(budgets, contextual, strict=True)]
        ranks = torch.sort(torch.sort(worth, dim=1, descending=True, stable=True).indices, dim=1).indices  # [t, C]
        foremost = ranks < torch.tensor(dominant, device=worth.device)[:, None]  # [t, C]
        columns = torch.arange(size, device=worth.device)  # [C]
        # The dominant by worth, then the rest in raster order; padding comes last in both orders.
        order = torch.sort(torch.where(foremost, ranks, size + columns), dim=1).indices  # [t, C]
        picks = columns[: max(budgets)].repeat(len(budgets), 1)  # [t, m], columns of `order`
        for row, (first, number, count) in enumerate(zip(dominant, contextual, candidates.counts, strict=True)):
            if number:
                step = max(1, (count - first) // number)
                picks[row, first : first + number] = first + step * columns[:number]
        return Picks(order.gather(1, picks), budgets)


def contextual_number(kept: int, share: float) -> int:
    """How many of a tile's kept tokens are contextual; they are the last in picking order."""
    return int(kept * share)
