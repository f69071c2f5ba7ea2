"""Decoding layer by layer, for what continuous batching cannot do.

`LayerwiseModel` runs a prompt and its answer by itself; `LayerwiseEngine` serves requests with it.
"""

from llm_service.engines.layerwise.engine import LayerwiseEngine
from llm_service.engines.layerwise.model import LayerwiseModel, LayerwiseState
from llm_service.engines.layerwise.twin import SUPPORTED

__all__ = ["SUPPORTED", "LayerwiseEngine", "LayerwiseModel", "LayerwiseState"]
