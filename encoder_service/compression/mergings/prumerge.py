"""Kept tokens absorb their nearest neighbours, and one extra token represents all dropped ones.

Source: PruMerge (arXiv 2403.15388) and its published code.
"""

import torch
from torch.nn import functional
from visionsplit.families.tower_outputs import TowerOutput
from visionsplit.options.parameters import Parameters

from encoder_service.compression.base import Merging, Picks
from encoder_service.compression.candidates import Candidates

_NEIGHBOURS = 32


class PruMergeMerging(Merging):
    """Each kept token becomes x + sum of a_m * x_m over its 32 nearest; one extra token is sum of a * x of the dropped.

    a is the affinity of [CLS]; the weights are not normalised. The nearest are the tokens with the highest cosine
    similarity of the last layer's keys, among all other tokens of the tile, kept or dropped; a small tile has fewer.

    The extra token takes the position of the best dropped one, because every token needs a unique position on the way
    to the language model; the published code gives it none. Departures from that code: padding is neither a neighbour
    nor dropped; a tile that keeps no other token gets no extra one, nor does a tile that drops none; sums are computed
    in float32. In PruMerge+ the code's fixed form omits some of the dropped tokens from the extra one, since it counts
    a token that is both best and sample twice; here the extra one includes all of them.
    """

    name = "prumerge"
    description = (
        "Kept tokens add up their 32 nearest, and one extra token the dropped ones, by [CLS] affinity (PruMerge)."
    )
    needs = frozenset({TowerOutput.CLS_AFFINITY, TowerOutput.LAST_KEYS})
    extra = 1

    def merge(self, candidates: Candidates, picks: Picks, parameters: Parameters) -> torch.Tensor:
        features = candidates.features()  # [t, C, Dv]
        keys = candidates.output(TowerOutput.LAST_KEYS)  # [t, C, D]
        affinity = candidates.output(TowerOutput.CLS_AFFINITY)  # [t, C]
        extras = candidates.extras if picks.extras is None else picks.extras
        # One row at a time: then the last bits of a row's sums do not depend on which other tiles are in the batch.
        merged = [
            _merge_row(
                features[row, :count].float(), keys[row, :count], affinity[row, :count], picks.order[row, :kept], extra
            )
            for row, (count, kept, extra) in enumerate(zip(candidates.counts, picks.counts, extras, strict=True))
            if kept
        ]
        return torch.cat(merged).to(features.dtype) if merged else features.new_empty(0, features.shape[2])


def _merge_row(
    features: torch.Tensor, keys: torch.Tensor, affinity: torch.Tensor, picked: torch.Tensor, extra: int
) -> torch.Tensor:
    """The merged tokens of one row, [m, Dv], the extra one last.

    Args:
        features: of the N valid tokens, [N, Dv].
        keys: [N, D].
        affinity: [N].
        picked: indices of the tokens to keep, followed by those that the extra token replaces, [m].
        extra: how many of the picked ones it replaces, 0 or 1.
    """
    kept = picked[: len(picked) - extra]  # [k]
    directions = functional.normalize(keys, dim=1)
    similarity = directions[kept] @ directions.t()  # [k, N]
    similarity.scatter_(1, kept[:, None], -torch.inf)  # a token is not its own neighbour
    nearest = similarity.topk(min(_NEIGHBOURS, len(features) - 1), dim=1).indices  # [k, 32]
    weights = torch.zeros_like(similarity).scatter_(1, nearest, affinity[nearest])  # [k, N]
    merged = features[kept] + weights @ features
    if not extra:
        return merged
    dropped = affinity.index_fill(0, kept, 0.0)  # [N]
    return torch.cat((merged, dropped[None] @ features))
