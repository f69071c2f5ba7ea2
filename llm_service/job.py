"""What the gateway hands to a replica and what comes back: tokens in, tokens out."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from visionsplit.grid import Layout
from visionsplit.wire.vision_tokens import VisionTokens

PENALTY_RANGE = (0.01, 100.0)  # beyond it a score leaves float32's range, or every seen token is alike


@dataclass(frozen=True)
class SamplingOptions:
    """How to choose the next token. The ranges have been checked."""

    max_new_tokens: int
    temperature: float = 0.0  # 0 decodes greedily
    top_k: int = 0  # 0 keeps all
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0  # in [0, 2**64)


class PositionIds(enum.Enum):
    """What places the kept vision tokens have in the language model's position encoding."""

    RENUMBERED = "renumbered"  # counted through, without gaps
    ORIGINAL = "original"  # as if every vision token had been kept


@dataclass(frozen=True)
class PruningSpec:
    """A request to drop vision tokens between layers, by names; `pruning.compose` resolves and checks it."""

    method: str
    retention_ratio: float | None = None  # (0, 1]; what it counts is the method's own
    parameters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One request for a replica."""

    request_id: str
    token_ids: tuple[int, ...]  # the image token once for each image
    images: tuple[VisionTokens, ...]
    layout: Layout
    sampling: SamplingOptions
    pruning: PruningSpec | None = None  # None drops nothing
    position_ids: PositionIds = PositionIds.RENUMBERED
    caller: str = ""  # callers take turns
    trace_context: Mapping[str, str] = field(default_factory=dict)  # W3C: what the replica's spans are children of


@dataclass(frozen=True)
class TokenEvent:
    """The tokens of one or more decoding steps."""

    token_ids: tuple[int, ...]
    finished: bool  # no event follows
    queue_seconds: float  # from the job's arrival at the engine to its first step
    layer_tokens: tuple[int, ...] | None = None  # prompt tokens in each layer's cache; the first event of a pruned job
