"""Which tokens are kept."""

from collections.abc import Mapping

from encoder_service.compression.base import Selection
from encoder_service.compression.selections.simple import EvenSelection, RandomSelection, TopKSelection

_ALL: tuple[Selection, ...] = (TopKSelection(), EvenSelection(), RandomSelection())
SELECTIONS: Mapping[str, Selection] = {selection.name: selection for selection in _ALL}
