"""Dropping vision tokens inside the language model, between its layers.

`compose` resolves a request's pruning options to a `ComposedPruning`; `engines/layerwise` runs it.
"""

from llm_service.pruning.base import ComposedPruning, PromptLayout, PruningMethod, Stage
from llm_service.pruning.methods import PRUNING_METHODS, compose

__all__ = ["PRUNING_METHODS", "ComposedPruning", "PromptLayout", "PruningMethod", "Stage", "compose"]
