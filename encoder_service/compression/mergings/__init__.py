"""What kept tokens take over from those that are dropped."""

from collections.abc import Mapping

from encoder_service.compression.base import Merging

_ALL: tuple[Merging, ...] = ()
MERGINGS: Mapping[str, Merging] = {merging.name: merging for merging in _ALL}
