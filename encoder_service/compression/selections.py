"""Which of a tile's tokens are kept, once their worth is known."""

from collections.abc import Mapping
from types import MappingProxyType

import torch

from encoder_service.compression.base import Declared, Selection


class TopKSelection:
    """The tokens of highest worth, best first."""

    name = "top_k"
    description = "The tokens of highest score, best first; of equals the first in raster order (GlobalCom2)."
    parameters: Declared = MappingProxyType({})

    def order(self, worth: torch.Tensor) -> torch.Tensor:
        return torch.sort(worth, dim=-1, descending=True, stable=True).indices


SELECTIONS: Mapping[str, Selection] = {selection.name: selection for selection in (TopKSelection(),)}
