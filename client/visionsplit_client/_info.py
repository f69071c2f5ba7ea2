"""Descriptions of running services."""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from visionsplit.families import UNNAMED
from visionsplit.options.compression import Compression
from visionsplit.options.data_types import DataTypeName
from visionsplit.options.messages import compression_from_proto, data_type_from_proto
from visionsplit.v1 import choice_pb2, encoder_service_pb2, llm_service_pb2, vision_tokens_pb2
from visionsplit.wire.same_fields import from_message


class HealthStatus(enum.Enum):
    """What `grpc.health.v1` says of a service as a whole."""

    SERVING = "serving"
    NOT_SERVING = "not serving"  # starting or draining
    UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class Health:
    """The answer to a health check."""

    status: HealthStatus
    reason: str = ""  # why the service is unreachable; empty where it answered


@dataclass(frozen=True)
class VisionFormat:
    """Identifies what vision tokens are; both services must agree on it."""

    feature_size: int  # width of a token
    encoder_fingerprint: str  # hash of the weights and the image processor's settings that decide the tokens
    family: str = UNNAMED  # the family of models, which decides the tokens' order in the prompt

    @classmethod
    def from_proto(cls, message: vision_tokens_pb2.VisionFormat) -> "VisionFormat":
        return cls(message.feature_size, message.encoder_fingerprint, message.family or UNNAMED)

    def to_proto(self) -> vision_tokens_pb2.VisionFormat:
        return vision_tokens_pb2.VisionFormat(
            feature_size=self.feature_size, encoder_fingerprint=self.encoder_fingerprint, family=self.family
        )


@dataclass(frozen=True)
class NamedChoice:
    """Something a request may name."""

    name: str
    description: str
    parameters: Mapping[str, float]  # with their default values


@dataclass(frozen=True)
class EncoderInfo:
    """What an encoder runs, offers and accepts."""

    model: str
    format: VisionFormat
    tile_pixels: int  # side of a tile
    patch_pixels: int  # side of a patch
    grids: tuple[tuple[int, int], ...]  # rows and columns of crops; (0, 0) is a thumbnail without crops
    methods: tuple[NamedChoice, ...]
    scores: tuple[NamedChoice, ...]
    budgets: tuple[NamedChoice, ...]
    selections: tuple[NamedChoice, ...]
    mergings: tuple[NamedChoice, ...]
    default_compression: Compression
    default_data_type: DataTypeName
    image_formats: tuple[str, ...]
    max_image_pixels: int
    max_request_bytes: int
    max_images: int
    device: str
    version: str

    @classmethod
    def from_proto(cls, message: encoder_service_pb2.GetEncoderInfoResponse) -> "EncoderInfo":
        return from_message(
            cls,
            message,
            format=VisionFormat.from_proto(message.format),
            grids=tuple((grid.rows, grid.columns) for grid in message.grids),
            methods=_choices(message.methods),
            scores=_choices(message.scores),
            budgets=_choices(message.budgets),
            selections=_choices(message.selections),
            mergings=_choices(message.mergings),
            default_compression=compression_from_proto(message.default_compression),
            default_data_type=data_type_from_proto(message.default_data_type).value,
            image_formats=tuple(message.image_formats),
        )


@dataclass(frozen=True)
class LlmInfo:
    """What an LLM service runs and accepts."""

    model: str
    format: VisionFormat
    context_length: int  # tokens of prompt and answer together
    image_placeholder: str
    default_max_new_tokens: int
    max_new_tokens: int
    max_images: int
    backend: str  # "ray" or "local"
    replicas: int
    engine: str
    device: str
    version: str
    pruning_methods: tuple[NamedChoice, ...]

    @classmethod
    def from_proto(cls, message: llm_service_pb2.GetLlmInfoResponse) -> "LlmInfo":
        return from_message(
            cls,
            message,
            format=VisionFormat.from_proto(message.format),
            pruning_methods=_choices(message.pruning_methods),
        )


def _choices(messages: Iterable[choice_pb2.NamedChoice]) -> tuple[NamedChoice, ...]:
    return tuple(from_message(NamedChoice, one, parameters=dict(one.parameters)) for one in messages)
