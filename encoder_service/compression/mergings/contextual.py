"""Adds each dropped token to the contextual token with the most similar key.

Source: VisionZip (arXiv 2412.04467) and its published code.
"""

from types import MappingProxyType

import torch
from torch.nn import functional
from visionsplit.families.tower_outputs import TowerOutput
from visionsplit.options.parameters import Parameters

from encoder_service.compression.base import Merging, Picks
from encoder_service.compression.candidates import Candidates
from encoder_service.compression.selections.dominant_contextual import CONTEXTUAL_SHARE, contextual_number


class ContextualMerging(Merging):
    """Adds to each contextual token the mean of the dropped tokens nearest to it; dominant tokens stay unchanged.

    The contextual tokens are the last int(m * contextual_share) of a tile's m in picking order. A dropped token belongs
    to the one with the highest cosine similarity of keys, mean over heads, in the layer that outputs the features. A
    contextual token without dropped ones stays unchanged; if there is no contextual token, dropped ones are lost.

    As in the published code, the mean is added to the token, and the token is not averaged with the others, as the word
    "merged" might suggest; what the paper's text says about this was not verified. Sums are computed in float32.
    """

    name = "contextual"
    description = "The last kept tokens of a tile add the mean of the dropped ones nearest to each (VisionZip)."
    parameters = MappingProxyType({"contextual_share": CONTEXTUAL_SHARE})
    needs = frozenset({TowerOutput.KEYS})

    def merge(self, candidates: Candidates, picks: Picks, parameters: Parameters) -> torch.Tensor:
        features = candidates.features()  # [t, C, Dv]
        keys = candidates.output(TowerOutput.KEYS)  # [t, C, D / H]
        # One row at a time: then the last bits of a row's sums do not depend on which other tiles are in the batch.
        merged = [
            _merge_row(
                features[row, :count].float(),
                keys[row, :count],
                picks.order[row, :kept],
                contextual_number(kept, parameters["contextual_share"]),
            )
            for row, (count, kept) in enumerate(zip(candidates.counts, picks.counts, strict=True))
            if kept
        ]
        return torch.cat(merged).to(features.dtype) if merged else features.new_empty(0, features.shape[2])


def _merge_row(features: torch.Tensor, keys: torch.Tensor, picked: torch.Tensor, contextual: int) -> torch.Tensor:
    """The merged tokens of one row, [m, Dv].

    Args:
        features: of the N valid tokens, [N, Dv].
        keys: [N, D / H].
        picked: indices of the tokens to keep, [m].
        contextual: how many of them, the last, receive dropped ones.
    """
    kept = features[picked]  # [m, Dv]
    if not contextual or len(picked) == len(features):
        return kept
    dominant = len(picked) - contextual
    directions = functional.normalize(keys, dim=1)
    nearest = (directions @ directions[picked[dominant:]].t()).argmax(dim=1)  # [N], columns of the contextual tokens
    belongs = functional.one_hot(nearest, contextual).to(features.dtype)  # [N, c]
    belongs.index_fill_(0, picked, 0.0)
    means = (belongs.t() @ features) / belongs.sum(dim=0).clamp_min(1)[:, None]  # [c, Dv]
    return torch.cat((kept[:dominant], kept[dominant:] + means))
