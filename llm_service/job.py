"""What the gateway hands to a replica and what comes back: tokens in, tokens out."""

from dataclasses import dataclass

from visionsplit.grid import Layout
from visionsplit.wire.vision_tokens import VisionTokens


@dataclass(frozen=True)
class SamplingOptions:
    """How to choose the next token. The ranges have been checked."""

    max_new_tokens: int
    temperature: float = 0.0  # 0 decodes greedily
    top_k: int = 0  # 0 keeps all
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0  # in [0, 2**64)


@dataclass(frozen=True)
class Job:
    """One request for a replica."""

    request_id: str
    token_ids: tuple[int, ...]  # the image token once for each image
    images: tuple[VisionTokens, ...]
    layout: Layout
    sampling: SamplingOptions


@dataclass(frozen=True)
class TokenEvent:
    """The tokens of one or more decoding steps."""

    token_ids: tuple[int, ...]
    finished: bool  # no event follows
    queue_seconds: float  # from the job's arrival at the engine to its first step
