"""The encoder's description of itself."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from visionsplit import __version__
from visionsplit.families.base import Cutting
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.encoder_half import EncoderHalf
from visionsplit.images import available_formats
from visionsplit.model.dtypes import DATA_TYPES_OF
from visionsplit.options.compression import Compression
from visionsplit.options.messages import compression_to_proto, data_type_to_proto
from visionsplit.v1 import choice_pb2, encoder_service_pb2, vision_tokens_pb2

from encoder_service.compression import (
    BUDGETS,
    FROM_TEXT,
    MERGINGS,
    SCORES,
    SELECTIONS,
    Abilities,
    Choice,
    compose,
    listed_methods,
    offered,
)
from encoder_service.config import EncoderConfig


def encoder_info(
    config: EncoderConfig,
    default_compression: Compression,
    checkpoint: Checkpoint,
    cutting: Cutting,
    half: EncoderHalf,
) -> encoder_service_pb2.GetEncoderInfoResponse:
    """Everything a caller may want to know. Reads the whole vision half once, for its fingerprint.

    What needs a text tower, or [CLS], is listed where there is one: a request may name what is listed.
    """
    outputs = abilities_of(checkpoint, half, text_tower=config.text_tower is not None).outputs
    vision_format = vision_tokens_pb2.VisionFormat(
        feature_size=half.feature_size,
        encoder_fingerprint=checkpoint.encoder_fingerprint(),
        family=checkpoint.family.name,
    )
    return encoder_service_pb2.GetEncoderInfoResponse(
        model=checkpoint.name,
        format=vision_format,
        tile_pixels=cutting.tile_pixels,
        patch_pixels=cutting.patch_pixels,
        grids=[encoder_service_pb2.GridShape(rows=rows, columns=columns) for rows, columns in cutting.grids],
        methods=_choices(listed_methods(outputs).values()),
        scores=_choices(offered(SCORES, outputs).values()),
        budgets=_choices(offered(BUDGETS, outputs).values()),
        selections=_choices(offered(SELECTIONS, outputs).values()),
        mergings=_choices(offered(MERGINGS, outputs).values()),
        default_compression=compression_to_proto(_resolved(default_compression)),
        default_data_type=data_type_to_proto(config.data_type or DATA_TYPES_OF[half.dtype]),
        image_formats=available_formats(),
        max_image_pixels=config.image.max_pixels,
        max_request_bytes=config.max_request_bytes,
        max_images=config.max_images,
        device=_device_name(half.device),
        version=__version__,
    )


def abilities_of(checkpoint: Checkpoint, half: EncoderHalf, *, text_tower: bool) -> Abilities:
    """What the encoder can do for compression methods, with or without a text tower."""
    family = checkpoint.family
    outputs = half.outputs | FROM_TEXT if text_tower else half.outputs
    return Abilities(outputs, family.layouts, whole_cell_regions=family.whole_cell_regions)


def _resolved(spec: Compression) -> Compression:
    """With the ratio that holds where a pruning method was named without one."""
    composition = compose(spec)
    return replace(spec, retention_ratio=composition.retention_ratio) if composition.prunes else spec


def _choices(choices: Iterable[Choice]) -> list[choice_pb2.NamedChoice]:
    return [
        choice_pb2.NamedChoice(
            name=choice.name,
            description=choice.description,
            parameters={name: parameter.default for name, parameter in choice.parameters.items()},
        )
        for choice in choices
    ]


def _device_name(device: torch.device) -> str:
    return f"cuda:{device.index or 0}" if device.type == "cuda" else str(device)
