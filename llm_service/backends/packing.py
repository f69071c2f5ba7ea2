"""Splits images into arrays, which Ray's object store passes on without a copy, and the remaining fields."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from visionsplit.grid import TileGrid
from visionsplit.options.data_types import DataType
from visionsplit.wire.tensors import TokenTensor
from visionsplit.wire.vision_tokens import VisionTokens

_ARRAYS_PER_IMAGE = 3


@dataclass(frozen=True)
class ImageMeta:
    """An image without its arrays."""

    grid: TileGrid
    budgets: tuple[int, ...]
    data_type: str
    columns: int
    quotas: tuple[int, ...] | None


def pack(images: Sequence[VisionTokens]) -> tuple[tuple[ImageMeta, ...], list[NDArray[Any]]]:
    """The images without their arrays, and per image three arrays: features and scales as bytes, and positions."""
    arrays: list[NDArray[Any]] = []
    for tokens in images:
        features = tokens.features
        arrays += [np.frombuffer(features.data, np.uint8), np.frombuffer(features.scales, np.uint8), tokens.positions]
    return tuple(_meta(tokens) for tokens in images), arrays


def unpack(metas: Sequence[ImageMeta], arrays: Sequence[NDArray[Any]]) -> tuple[VisionTokens, ...]:
    """Restore the images from the output of `pack`."""
    images: list[VisionTokens] = []
    for index, meta in enumerate(metas):
        data, scales, positions = arrays[index * _ARRAYS_PER_IMAGE : (index + 1) * _ARRAYS_PER_IMAGE]
        features = TokenTensor(DataType[meta.data_type], len(positions), meta.columns, data.tobytes(), scales.tobytes())
        images.append(VisionTokens(meta.grid, meta.budgets, features, positions, meta.quotas))
    return tuple(images)


def _meta(tokens: VisionTokens) -> ImageMeta:
    features = tokens.features
    return ImageMeta(tokens.grid, tokens.budgets, features.data_type.name, features.columns, tokens.quotas)
