"""Makes the engines of a replica."""

from dataclasses import dataclass
from typing import Protocol

import torch
from visionsplit.model.checkpoint import Checkpoint

from llm_service.config import EngineConfig
from llm_service.engines.base import Engine, MainEngine
from llm_service.engines.continuous.engine import ContinuousBatchingEngine
from llm_service.engines.layerwise.engine import LayerwiseEngine
from llm_service.engines.layerwise.model import LayerwiseModel
from llm_service.generation_settings import GenerationSettings
from llm_service.job import LAYERWISE_MODELS
from llm_service.replica.text_model import load_text_model


@dataclass(frozen=True)
class Engines:
    """The engines of one replica, not yet started."""

    main: MainEngine
    layerwise: Engine | None  # None where no request can need the layers one by one


class MakeEngines(Protocol):
    """The interface of `make_engines`. Ray pickles it for the replicas."""

    def __call__(
        self, checkpoint: Checkpoint, config: EngineConfig, *, device: torch.device, dtype: torch.dtype
    ) -> Engines: ...


def make_engines(checkpoint: Checkpoint, config: EngineConfig, *, device: torch.device, dtype: torch.dtype) -> Engines:
    """Make the engines that a replica needs.

    Raises:
        CheckpointError: the weights cannot be read.
    """
    end_ids = GenerationSettings.of(checkpoint).end_ids
    model = load_text_model(checkpoint, device=device, dtype=dtype)
    image_token_id = checkpoint.config.image_token_id
    layerwise = None
    if model.config.model_type in LAYERWISE_MODELS:
        layerwise = LayerwiseEngine(
            LayerwiseModel(model), image_token_id=image_token_id, end_ids=end_ids, max_waiting=config.max_waiting
        )
    main = ContinuousBatchingEngine(model, config, image_token_id=image_token_id, end_ids=end_ids)
    return Engines(main, layerwise)
