"""The vision tower's output for tiles: features, and further outputs that parts of a compression method read."""

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch


class TowerOutput(enum.Enum):
    """An output of the vision tower that a part of a method needs besides the features. L layers, H heads, width D."""

    # [t, P] float32: pre-softmax attention of [CLS] in the last layer, mean over heads; where there is no [CLS], the
    # negative cosine of a cell's features to the tile's mean (GlobalCom2, appendix 8)
    SALIENCE = "how much a cell stands out by the family's own score"
    CLS_ATTENTION = "attention of [CLS] to each patch in the layer that puts out the features, mean over heads"  # same
    CLS_ATTENTION_FIRST = "the same in the first layer"  # [t, P] float32
    CLS_AFFINITY = "softmax of q_cls . k / sqrt(D) over [CLS] and patches, last layer, as one head"  # [t, P] float32
    LAST_KEYS = "keys of the last layer, all heads side by side"  # [t, P, D] float32
    KEYS = "keys of the layer that puts out the features, mean over heads"  # [t, P, D / H] float32
    TEXT_RELEVANCE = "how relevant each patch is to the request's text; the text tower says"  # [t, P] float32


FROM_TEXT = frozenset({TowerOutput.TEXT_RELEVANCE})  # not the vision tower's: each image has a text of its own


@dataclass(frozen=True)
class TileFeatures:
    """The vision tower's output for t tiles of P cells."""

    features: torch.Tensor  # [t, P, Dv]
    outputs: Mapping[TowerOutput, torch.Tensor]  # those that were requested

    def tiles(self, first: int, stop: int) -> "TileFeatures":
        """The output for tiles [first, stop)."""
        outputs = {output: values[first:stop] for output, values in self.outputs.items()}
        return TileFeatures(self.features[first:stop], outputs)


def all_finite(values: torch.Tensor) -> torch.Tensor:
    """Whether no value is infinite or NaN, [] bool on their device, in two kernels; `torch.isfinite` takes six."""
    if not values.numel():
        return torch.ones((), dtype=torch.bool, device=values.device)
    largest: torch.Tensor = torch.linalg.vector_norm(values, ord=math.inf)  # NaN if one of them is
    return largest < math.inf
