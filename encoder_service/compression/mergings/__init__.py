"""Mergings: how dropped tokens are merged into kept ones."""

from collections.abc import Mapping

from encoder_service.compression.base import Merging
from encoder_service.compression.mergings.contextual import ContextualMerging
from encoder_service.compression.mergings.prumerge import PruMergeMerging

_ALL: tuple[Merging, ...] = (PruMergeMerging(), ContextualMerging())
MERGINGS: Mapping[str, Merging] = {merging.name: merging for merging in _ALL}
