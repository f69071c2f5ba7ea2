"""What calls return: plain, frozen values."""

from dataclasses import dataclass
from typing import Literal

from visionsplit.errors import InternalError
from visionsplit.grid import TileGrid
from visionsplit.v1 import encoder_service_pb2, generation_pb2
from visionsplit.wire.same_fields import from_message
from visionsplit.wire.vision_tokens import grid_from_proto

FinishReason = Literal["stop", "length"]
CacheUse = Literal["off", "miss", "memory", "disk"]

_FINISH_REASONS: dict[int, FinishReason] = {
    generation_pb2.FINISH_REASON_STOP: "stop",
    generation_pb2.FINISH_REASON_LENGTH: "length",
}

_CACHE_USES: dict[int, CacheUse] = {
    encoder_service_pb2.CACHE_UNSPECIFIED: "off",
    encoder_service_pb2.CACHE_MISS: "miss",
    encoder_service_pb2.CACHE_MEMORY: "memory",
    encoder_service_pb2.CACHE_DISK: "disk",
}


@dataclass(frozen=True)
class EncodeTimings:
    """Seconds spent on one image, on the encoder's clock; see the protocol's message of the same name."""

    preprocess_seconds: float
    queue_seconds: float
    encode_seconds: float
    first_chunk_seconds: float
    total_seconds: float


@dataclass(frozen=True)
class ImageSummary:
    """What encoding one image did and cost."""

    index: int  # position among the call's images
    grid: TileGrid
    budgets: tuple[int, ...]  # tokens kept per tile, thumbnail first
    tokens_before: int  # without compression; newlines not counted
    tokens_after: int
    wire_bytes: int  # features, scales and positions
    timings: EncodeTimings
    cache: CacheUse = "off"  # where the tokens came from: "miss" they were encoded, "off" the encoder keeps none

    @property
    def wire_bytes_before(self) -> int:
        """What the image would have put on the wire uncompressed, in the same data type."""
        return round(self.wire_bytes * self.tokens_before / self.tokens_after) if self.tokens_after else 0

    @classmethod
    def from_proto(cls, message: encoder_service_pb2.ImageSummary) -> "ImageSummary":
        return from_message(
            cls,
            message,
            index=message.image_index,
            grid=grid_from_proto(message.grid),
            budgets=tuple(message.budgets),
            timings=from_message(EncodeTimings, message.timings),
            cache=_cache_use(message.cache),
        )


@dataclass(frozen=True)
class Usage:
    """What a call put through the language model."""

    prompt_tokens: int  # text, vision and newline tokens
    text_tokens: int
    vision_tokens: int  # kept
    newline_tokens: int
    vision_tokens_before: int  # without compression
    generated_tokens: int
    wire_bytes: int  # received by the LLM service


@dataclass(frozen=True)
class LlmTimings:
    """Seconds spent in the LLM service, on its clock; see the protocol's message of the same name."""

    receive_seconds: float
    queue_seconds: float
    first_token_seconds: float
    decode_seconds: float
    total_seconds: float


@dataclass(frozen=True)
class Generation:
    """A complete answer."""

    text: str
    token_ids: tuple[int, ...]  # the end-of-sequence id included
    finish_reason: FinishReason  # "stop": the model ended or a stop string was reached; "length": max_new_tokens was
    usage: Usage
    timings: LlmTimings
    layer_tokens: tuple[int, ...]  # prompt tokens in each layer's KV cache, first layer first; empty without pruning
    images: tuple[ImageSummary, ...]
    request_id: str  # also in the services' logs
    time_to_first_token_seconds: float  # seen from here, from the call's start; the whole call if there was no token
    total_seconds: float  # seen from here


@dataclass(frozen=True)
class ImageEncoded:
    """Event: an image's last tokens have been sent to the LLM service."""

    image: ImageSummary


@dataclass(frozen=True)
class TextDelta:
    """Event: the next piece of the answer. The text may be empty while a character is incomplete."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Finished:
    """Event: the last one, with the whole answer."""

    generation: Generation


GenerationEvent = ImageEncoded | TextDelta | Finished


def finish_reason(number: int) -> FinishReason:
    """Raises InternalError for a reason the protocol does not have."""
    if number not in _FINISH_REASONS:
        raise InternalError(f"the service gave the unknown finish reason {number}")
    return _FINISH_REASONS[number]


def _cache_use(number: int) -> CacheUse:
    """Raises InternalError for a place the protocol does not have."""
    if number not in _CACHE_USES:
        raise InternalError(f"the encoder took tokens from the unknown cache {number}")
    return _CACHE_USES[number]
