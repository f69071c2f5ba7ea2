"""Makes the engines of a replica. Only the library of the chosen engine is imported."""

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol

import torch
from visionsplit.command_line.settings import ConfigError
from visionsplit.families.checkpoint import Checkpoint

from llm_service.config import EngineConfig, EngineKind
from llm_service.engines.base import MainEngine
from llm_service.generation_settings import GenerationSettings
from llm_service.job import LAYERWISE_MODELS
from llm_service.replica.text_model import load_text_model

if TYPE_CHECKING:  # it needs the transformers library's continuous batching
    from llm_service.engines.layerwise.engine import LayerwiseEngine

# The oldest transformers library whose continuous batching has the parts that the engine replaces.
_OLDEST_TRANSFORMERS = (5, 23)


@dataclass(frozen=True)
class Engines:
    """The engines of one replica, not yet started."""

    main: MainEngine
    layerwise: "LayerwiseEngine | None"  # None where no request can need the layers one by one


class MakeEngines(Protocol):
    """The interface of `make_engines`. Ray pickles it for the replicas."""

    def __call__(
        self, checkpoint: Checkpoint, config: EngineConfig, *, device: torch.device, dtype: torch.dtype
    ) -> Engines: ...


def make_engines(checkpoint: Checkpoint, config: EngineConfig, *, device: torch.device, dtype: torch.dtype) -> Engines:
    """Make the engines that a replica needs.

    Raises:
        CheckpointError: the weights cannot be read.
        ConfigError: what the engine needs is not installed, or the engine refuses a setting.
    """
    end_ids = GenerationSettings.of(checkpoint).end_ids
    make = _vllm if config.kind is EngineKind.VLLM else _transformers
    return make(checkpoint, config, end_ids, device, dtype)


def _transformers(
    checkpoint: Checkpoint, config: EngineConfig, end_ids: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> Engines:
    installed = version("transformers")
    if tuple(map(int, installed.split(".")[:2])) < _OLDEST_TRANSFORMERS:
        oldest = ".".join(map(str, _OLDEST_TRANSFORMERS))
        raise ConfigError(f"--engine transformers needs transformers {oldest} or newer; {installed} is installed")
    from llm_service.engines.continuous.engine import ContinuousBatchingEngine
    from llm_service.engines.layerwise.engine import LayerwiseEngine
    from llm_service.engines.layerwise.model import LayerwiseModel

    model = load_text_model(checkpoint, device=device, dtype=dtype)
    image_token_id = checkpoint.settings.image_token_id
    layerwise = None
    if model.config.model_type in LAYERWISE_MODELS:
        layerwise = LayerwiseEngine(
            LayerwiseModel(model), image_token_id=image_token_id, end_ids=end_ids, max_waiting=config.max_waiting
        )
    main = ContinuousBatchingEngine(model, config, image_token_id=image_token_id, end_ids=end_ids)
    return Engines(main, layerwise)


def _vllm(
    checkpoint: Checkpoint, config: EngineConfig, end_ids: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> Engines:
    from llm_service.engines.vllm.environment import prepare_environment

    prepare_environment(device)
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise ConfigError("--engine vllm needs vLLM: pip install 'visionsplit[vllm]'") from error
    from llm_service.engines.vllm.engine import VllmEngine

    return Engines(VllmEngine(checkpoint, config, device=device, dtype=dtype, end_ids=end_ids), None)
