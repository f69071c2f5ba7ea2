"""The encoder's description of itself."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from visionsplit import __version__
from visionsplit.images import available_formats
from visionsplit.model.checkpoint import Checkpoint
from visionsplit.model.dtypes import DATA_TYPES_OF
from visionsplit.options.compression import Compression
from visionsplit.options.messages import compression_to_proto, data_type_to_proto
from visionsplit.v1 import choice_pb2, encoder_service_pb2, vision_tokens_pb2

from encoder_service.compression import (
    BUDGETS,
    MERGINGS,
    SELECTIONS,
    Choice,
    compose,
    listed_methods,
    listed_scores,
)
from encoder_service.config import EncoderConfig
from encoder_service.device.vision_tower import VisionTower
from encoder_service.images.tiles import Tiler


def encoder_info(
    config: EncoderConfig,
    default_compression: Compression,
    checkpoint: Checkpoint,
    tiler: Tiler,
    tower: VisionTower,
) -> encoder_service_pb2.GetEncoderInfoResponse:
    """Everything a caller may want to know. Reads the whole vision tower once, for its fingerprint.

    What needs a text tower is listed where there is one: a request may name what is listed.
    """
    text_tower = config.text_tower is not None
    vision_format = vision_tokens_pb2.VisionFormat(
        feature_size=tower.feature_size, encoder_fingerprint=checkpoint.encoder_fingerprint()
    )
    return encoder_service_pb2.GetEncoderInfoResponse(
        model=checkpoint.name,
        format=vision_format,
        tile_pixels=tiler.tile_pixels,
        patch_pixels=tiler.patch_pixels,
        grids=[encoder_service_pb2.GridShape(rows=rows, columns=columns) for rows, columns in tiler.grids],
        methods=_choices(listed_methods(text_tower=text_tower).values()),
        scores=_choices(listed_scores(text_tower=text_tower).values()),
        budgets=_choices(BUDGETS.values()),
        selections=_choices(SELECTIONS.values()),
        mergings=_choices(MERGINGS.values()),
        default_compression=compression_to_proto(_resolved(default_compression)),
        default_data_type=data_type_to_proto(config.data_type or DATA_TYPES_OF[tower.dtype]),
        image_formats=available_formats(),
        max_image_pixels=config.image.max_pixels,
        max_request_bytes=config.max_request_bytes,
        max_images=config.max_images,
        device=_device_name(tower.device),
        version=__version__,
    )


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
