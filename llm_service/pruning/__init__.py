"""Dropping vision tokens inside the language model, between its layers.

`compose` turns a request's words into a `Pruning`; `engines/layerwise` runs it.
"""

from llm_service.pruning.base import PromptLayout, Pruning, PruningMethod, Stage
from llm_service.pruning.methods import PRUNING_METHODS, compose

__all__ = ["PRUNING_METHODS", "PromptLayout", "Pruning", "PruningMethod", "Stage", "compose"]
