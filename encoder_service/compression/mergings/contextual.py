"""Dropped tokens go into the contextual token whose key is most like theirs.

Source: VisionZip (arXiv 2412.04467) and its published code.
"""

from types import MappingProxyType

import torch
from torch.nn import functional
from visionsplit.options.parameters import Parameters

from encoder_service.compression.base import Merging, Picks
from encoder_service.compression.candidates import Candidates
from encoder_service.compression.features import TowerOutput
from encoder_service.compression.selections.dominant_contextual import CONTEXTUAL_SHARE, contextual_number


class ContextualMerging(Merging):
    """Each contextual token has the mean of the dropped tokens added that are nearest to it; dominant ones stay.

    The contextual tokens are the last int(m * contextual_share) of a tile's m in picking order. A dropped token goes to
    the one of highest cosine similarity by keys, mean over heads, in the layer that puts out the features. A contextual
    token to which none goes stays as it is; where there is no contextual token, dropped ones are lost.

    As in the published code the mean is added to the token, and not the token averaged in with the others as a reader
    may take the word "merged" for; what the paper's text says of this was not verified. The sums are made in float32.
    """

    name = "contextual"
    description = "The last kept tokens of a tile add the mean of the dropped ones nearest to each (VisionZip)."
    parameters = MappingProxyType({"contextual_share": CONTEXTUAL_SHARE})
    needs = frozenset({TowerOutput.KEYS})

    def merge(self, candidates: Candidates, picks: Picks, parameters: Parameters) -> torch.Tensor:
        features = candidates.features()  # [t, C, Dv]
        keys = candidates.output(TowerOutput.KEYS)  # [t, C, D / H]
        # One row at a time: the sums of a row of its own size do not depend, in the last bit, on other tiles' company.
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
        contextual: how many of them, the last, take in dropped ones.
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
