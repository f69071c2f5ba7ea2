"""Scores: how valuable a crop's token is, by the crop's view, by the thumbnail's view, or by both.

Source: GlobalCom2 (arXiv 2501.05179), section "token score" and the ablation on it, with the normalisation of the
published code; they read the [CLS] logits of the last layer, or what a vision tower without [CLS] has
instead (`SALIENCE`). Also the scores of other methods, which use one view.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch.nn import functional
from visionsplit.families.tower_outputs import TowerOutput
from visionsplit.options.parameters import Parameter, Parameters

from encoder_service.compression.base import Score
from encoder_service.compression.geometry import Geometry

_LEAST_RELEVANCE = 1e-6  # from CDPruner's code: the weight of the least relevant token, before the division


class FlatScore(Score):
    """Rates all tokens equal."""

    name = "flat"
    description = "All tokens are worth the same; for selections that look at the features."


class LocalScore(Score):
    """A crop's own salience."""

    name = "local"
    description = "Salience in the crop itself, as by [CLS] logits (GlobalCom2's ablation, local only)."
    source = TowerOutput.SALIENCE


class ClsAttentionScore(Score):
    """A tile's own [CLS] attention, after the softmax, in the layer that outputs the features."""

    name = "cls_attention"
    description = "[CLS] attention of the tile itself in the layer that puts out the features (FasterVLM)."
    source = TowerOutput.CLS_ATTENTION


class ClsAffinityScore(Score):
    """A tile's own [CLS] attention in the last layer, computed as one head."""

    name = "cls_affinity"
    description = "[CLS] attention of the tile itself in the last layer, as one head over the full width (PruMerge)."
    source = TowerOutput.CLS_AFFINITY


class GlobalScore(Score):
    """The thumbnail's salience at the position of the crop's token."""

    name = "global"
    description = "Salience in the thumbnail, resized to the crops (GlobalCom2's ablation, global only)."
    source = TowerOutput.SALIENCE

    def guidance(self, thumbnail: torch.Tensor, geometry: Geometry) -> torch.Tensor | None:
        return resize_to_crops(thumbnail, geometry)

    def rate(
        self, own: torch.Tensor, guidance: torch.Tensor | None, padding: torch.Tensor | None, parameters: Parameters
    ) -> torch.Tensor:
        return own if guidance is None else guidance


class GlobalLocalScore(Score):
    """Both logits, each scaled to unit length per crop: alpha * local + (1 - alpha) * global."""

    name = "global_local"
    description = "alpha * local + (1 - alpha) * global, each of unit length per crop (GlobalCom2)."
    parameters = MappingProxyType({"alpha": Parameter(0.5, minimum=0, maximum=1)})
    source = TowerOutput.SALIENCE

    def guidance(self, thumbnail: torch.Tensor, geometry: Geometry) -> torch.Tensor | None:
        resized = resize_to_crops(thumbnail, geometry)
        return None if resized is None else _unit_rows(resized, geometry.padding[1:] if geometry.padded else None)

    def rate(
        self, own: torch.Tensor, guidance: torch.Tensor | None, padding: torch.Tensor | None, parameters: Parameters
    ) -> torch.Tensor:
        if guidance is None:
            return own
        alpha = parameters["alpha"]
        return _unit_rows(own, padding) * alpha + guidance * (1 - alpha)


class PromptRelevanceScore(Score):
    """Relevance to a text, scaled over all tiles: (r - lowest + 1e-6) / (highest - lowest), as in CDPruner's code.

    That code scales over every cell of the tiles; here cells that show padding do not count. If all tokens are equally
    relevant, that code divides by zero; here all of them then weigh 1.
    """

    name = "prompt_relevance"
    description = "Relevance to the request's text, by the CLIP checkpoint's text tower, over all tiles (CDPruner)."
    source = TowerOutput.TEXT_RELEVANCE
    whole_image = True
    is_weight = True

    def rate(
        self, own: torch.Tensor, guidance: torch.Tensor | None, padding: torch.Tensor | None, parameters: Parameters
    ) -> torch.Tensor:
        lowest = (own if padding is None else own.masked_fill(padding, math.inf)).amin()
        highest = (own if padding is None else own.masked_fill(padding, -math.inf)).amax()
        return torch.where(highest > lowest, (own - lowest + _LEAST_RELEVANCE) / (highest - lowest), 1.0)


def resize_to_crops(thumbnail: torch.Tensor, geometry: Geometry) -> torch.Tensor | None:
    """The thumbnail's scores [P], resized bilinearly to the valid region and cut along the crops' borders.

    Returns [crops, P] in the geometry's order, with padding undefined; None if the valid region is empty.
    """
    if 0 in geometry.canvas_size:
        return None
    square = thumbnail.view(1, 1, geometry.side, geometry.side)
    region = functional.interpolate(square, size=geometry.canvas_size, mode="bilinear", align_corners=False)
    return region.flatten()[geometry.guides]


def _unit_rows(values: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
    """Rows [c, P] scaled to unit length over their valid cells; a row of length below 1e-12 is divided by that."""
    if padding is not None:
        values = values.masked_fill(padding, 0.0)
    lengths: torch.Tensor = torch.linalg.vector_norm(values, dim=-1, keepdim=True)  # [c, 1]
    return values / lengths.clamp_min_(1e-12)


_ALL: tuple[Score, ...] = (
    GlobalLocalScore(),
    LocalScore(),
    GlobalScore(),
    ClsAttentionScore(),
    ClsAffinityScore(),
    PromptRelevanceScore(),
    FlatScore(),
)
SCORES: Mapping[str, Score] = {score.name: score for score in _ALL}
