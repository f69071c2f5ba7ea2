"""Selections: which tokens are kept."""

from collections.abc import Mapping

from encoder_service.compression.base import Selection
from encoder_service.compression.selections.coverage import CoverageSelection
from encoder_service.compression.selections.determinantal import (
    CentredDeterminantalSelection,
    DeterminantalSelection,
)
from encoder_service.compression.selections.dominant_contextual import DominantContextualSelection
from encoder_service.compression.selections.max_min import CentredMaxMinSelection, MaxMinSelection
from encoder_service.compression.selections.simple import EvenSelection, RandomSelection, TopKSelection
from encoder_service.compression.selections.spatial_samples import SpatialSamplesSelection

_ALL: tuple[Selection, ...] = (
    TopKSelection(),
    EvenSelection(),
    RandomSelection(),
    SpatialSamplesSelection(),
    DominantContextualSelection(),
    MaxMinSelection(),
    CentredMaxMinSelection(),
    CoverageSelection(),
    DeterminantalSelection(),
    CentredDeterminantalSelection(),
)
SELECTIONS: Mapping[str, Selection] = {selection.name: selection for selection in _ALL}
