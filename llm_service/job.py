"""What the gateway hands to a replica and what comes back: tokens in, tokens out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from visionsplit.options.layout import Layout
from visionsplit.options.prefill import PositionIds
from visionsplit.options.sampling import ResolvedSampling
from visionsplit.wire.vision_tokens import VisionTokens

from llm_service.pruning import ComposedPruning

# The types of language models, by the transformers library's names, whose layers a replica can run one by one, as
# pruning and original position ids need. `LayerwiseModel` knows their decoder layers; their rotation is the same.
LAYERWISE_MODELS = ("llama", "mistral", "qwen2")


@dataclass(frozen=True)
class Job:
    """One request for a replica. The gateway has checked all of it; a replica checks nothing again."""

    request_id: str
    token_ids: tuple[int, ...]  # the image token once for each run of an image's tokens
    images: tuple[VisionTokens, ...]
    layout: Layout
    sampling: ResolvedSampling
    pruning: ComposedPruning | None = None  # None drops nothing
    position_ids: PositionIds = "renumbered"
    caller: str = ""  # callers take turns
    pause_seconds: float = 0.0  # between two events; tokens that come meanwhile go out together
    trace_context: Mapping[str, str] = field(default_factory=dict)  # W3C: what the replica's spans are children of

    @property
    def layer_by_layer(self) -> bool:
        """Whether only the layerwise engine can serve the job."""
        return self.pruning is not None or self.position_ids == "original"


@dataclass(frozen=True)
class TokenEvent:
    """The tokens of one or more decoding steps."""

    token_ids: tuple[int, ...]
    finished: bool  # no event follows
    queue_seconds: float  # from the job's arrival at the engine to its first step
    layer_tokens: tuple[int, ...] | None = None  # prompt tokens in each layer's cache; the first event of a pruned job


@dataclass(frozen=True)
class ReplicaInfo:
    """What a replica runs: engine, device and context length."""

    engine: str
    device: str
    context_length: int  # most tokens of prompt and answer together
    takes_layers_apart: bool  # whether it can prune between layers, and keep tokens at their original positions


@dataclass(frozen=True)
class EngineUse:
    """How much of an engine's memory is in use."""

    slab_tokens_used: int  # rows held by images of running requests
    slab_tokens: int
    kv_used_ratio: float  # in [0, 1]; with continuous batching including blocks kept for reuse
