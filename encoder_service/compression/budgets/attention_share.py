"""A fixed total for the image: a part of it for the thumbnail, the rest divided among the crops by what it shows there.

Source: HiRED (arXiv 2408.10945), in the form of its published code for LLaVA-NeXT.
"""

import math
from types import MappingProxyType

import torch
from visionsplit.options.parameters import Parameter, Parameters

from encoder_service.compression.base import Budget
from encoder_service.compression.features import TowerOutput
from encoder_service.compression.geometry import Geometry


class AttentionShareBudget(Budget):
    """The thumbnail keeps a part of the total, each crop by how many of the thumbnail's foremost cells look at it.

    With T the retention ratio of all tokens and a = thumbnail_share: the thumbnail keeps int(T * a) tokens, at most its
    own; of the thumbnail's P cells the int(P * (1 - a)) with the highest [CLS] attention in the first layer are marked;
    a crop keeps what is left of T in proportion to the marked cells that look at it, truncated, at most its own tokens.
    What a crop cannot take is lost to the others, as in the published code; the thumbnail's goes to the crops.

    Departures from that code: T counts the tokens that show image, not the padding, which the code budgets for and then
    drops; the marked cells are counted where each crop lies, while the code cuts the raster into as many runs of equal
    length as there are crops, which for two columns are not the crops' places; if no cell is marked, the crops share
    alike. Not verified against the paper's text: that it counts cells where it speaks of a "visual content score".
    """

    name = "attention_share"
    description = "A total for the image; the thumbnail's first-layer [CLS] attention divides it among crops (HiRED)."
    parameters = MappingProxyType({"thumbnail_share": Parameter(0.5, minimum=0, maximum=1)})
    source = TowerOutput.CLS_ATTENTION_FIRST

    def ratios(
        self, source: torch.Tensor | None, geometry: Geometry, retention_ratio: float | None, parameters: Parameters
    ) -> list[float]:
        assert source is not None, "compose sees to it"
        assert retention_ratio is not None, "compose sees to it"
        share = parameters["thumbnail_share"]
        number = int(len(source) * (1 - share))
        marked = torch.sort(source, descending=True, stable=True).indices[:number]
        weights = geometry.regions[:, marked].sum(dim=1).tolist()  # [crops]
        total = int(sum(geometry.counts) * retention_ratio)
        budgets = divide(total, list(geometry.counts), weights, share)
        return [_exact_ratio(number, count) for number, count in zip(budgets, geometry.counts, strict=True)]


def divide(total: int, counts: list[int], weights: list[int], thumbnail_share: float) -> list[int]:
    """How many of a total of tokens each tile keeps, thumbnail first, at most its `counts`; weights are the crops'."""
    thumbnail = min(int(total * thumbnail_share), counts[0])
    rest = min(total - thumbnail, sum(counts[1:]))
    if not any(weights):
        weights = [1] * len(weights)
    shares = [rest * weight // sum(weights) for weight in weights]
    return [thumbnail, *(min(share, count) for share, count in zip(shares, counts[1:], strict=True))]


def _exact_ratio(number: int, count: int) -> float:
    """A ratio of which int(count * ratio) is the number again: the quotient's last bit may have to go up."""
    if count == 0:
        return 0.0
    ratio = number / count
    return ratio if int(count * ratio) == number else math.nextafter(ratio, math.inf)
