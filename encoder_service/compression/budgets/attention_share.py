"""A fixed total per image: a share for the thumbnail, and the rest for the crops by the thumbnail's attention to them.

Source: HiRED (arXiv 2408.10945), in the form of its published code for LLaVA-NeXT.
"""

import math
from collections.abc import Sequence
from types import MappingProxyType

import torch
from visionsplit.families.tower_outputs import TowerOutput
from visionsplit.options.parameters import Parameter, Parameters

from encoder_service.compression.base import Budget
from encoder_service.compression.geometry import Geometry


class AttentionShareBudget(Budget):
    """Divides a total: a share for the thumbnail, and for each crop by how many top cells of the thumbnail cover it.

    With T the retention ratio of all tokens and a = thumbnail_share: the thumbnail keeps int(T * a) tokens, at most all
    of its tokens. Of the thumbnail's P cells the int(P * (1 - a)) with the highest [CLS] attention in the first layer
    are marked. A crop keeps a share of the rest of T in proportion to the marked cells that cover it, truncated, at
    most all of its tokens. What a crop cannot take is lost, as in the published code; what the thumbnail cannot take
    goes to the crops.

    Departures from that code: T counts the tokens that show image, without the padding, which the code budgets for and
    then drops. The marked cells are counted where each crop lies, while the code cuts the raster into as many runs of
    equal length as there are crops, which for two columns are not the crops' regions. If no cell is marked, the crops
    share equally. Not verified against the paper's text: that it counts cells where it mentions a "visual content
    score".
    """

    name = "attention_share"
    description = "A total for the image; the thumbnail's first-layer [CLS] attention divides it among crops (HiRED)."
    parameters = MappingProxyType({"thumbnail_share": Parameter(0.5, minimum=0, maximum=1)})
    source = TowerOutput.CLS_ATTENTION_FIRST

    def measure(
        self, source: torch.Tensor, geometry: Geometry, retention_ratio: float | None, parameters: Parameters
    ) -> torch.Tensor:
        number = int(len(source) * (1 - parameters["thumbnail_share"]))
        marked = torch.sort(source, descending=True, stable=True).indices[:number]
        return geometry.regions[:, marked].sum(dim=1).double()  # [crops]

    def ratios(
        self, measured: Sequence[float], geometry: Geometry, retention_ratio: float | None, parameters: Parameters
    ) -> list[float]:
        assert retention_ratio is not None, "compose sees to it"
        total = int(sum(geometry.counts) * retention_ratio)
        weights = [int(number) for number in measured]  # of marked cells
        budgets = divide(total, list(geometry.counts), weights, parameters["thumbnail_share"])
        return [_exact_ratio(number, count) for number, count in zip(budgets, geometry.counts, strict=True)]


def divide(total: int, counts: list[int], weights: list[int], thumbnail_share: float) -> list[int]:
    """The number of tokens per tile, thumbnail first, at most its `counts`; `weights` belong to the crops."""
    if len(counts) == 1:
        return [min(total, counts[0])]  # no crops to share with
    thumbnail = min(int(total * thumbnail_share), counts[0])
    rest = min(total - thumbnail, sum(counts[1:]))
    if not any(weights):
        weights = [1] * len(weights)
    shares = [rest * weight // sum(weights) for weight in weights]
    return [thumbnail, *(min(share, count) for share, count in zip(shares, counts[1:], strict=True))]


def _exact_ratio(number: int, count: int) -> float:
    """A ratio for which int(count * ratio) is the number: rounding may require the next larger float."""
    if count == 0:
        return 0.0
    ratio = number / count
    return ratio if int(count * ratio) == number else math.nextafter(ratio, math.inf)
