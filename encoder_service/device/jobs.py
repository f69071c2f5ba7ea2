"""What passes between the calls and the device: images in, spans of their tiles through, kept tokens out."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from visionsplit.errors import VisionSplitError
from visionsplit.grid import TileGrid
from visionsplit.options.data_types import DataType
from visionsplit.wire.tensors import TokenTensor
from visionsplit.wire.vision_tokens import Positions

from encoder_service.admission import Place
from encoder_service.compression import Composition, Plan


@dataclass(eq=False)
class PreparedImage:
    """An image cut into tiles, with the place that it holds. Compared by identity."""

    pixels: torch.Tensor  # [T, 3, H, W] float32, CPU; [0] once it is not needed any more
    grid: TileGrid
    preprocess_seconds: float
    place: Place

    def release(self) -> None:
        """Let go of the pixels and of the place, once the last tile has been encoded."""
        self.pixels = self.pixels.new_empty(0)
        self.place.leave()


@dataclass(frozen=True)
class EncodedTiles:
    """The kept tokens of some consecutive tiles of one image: of all of them, where the method waits for the last."""

    stop_tile: int  # one past the last of these tiles
    budgets: list[int]  # of the whole image, thumbnail first
    quotas: list[int] | None  # of the whole image, where only these were asked for
    features: TokenTensor  # [K, Dv]; K may be 0
    positions: Positions  # [K, 3]
    started: float  # when these tiles' first forward pass began, seconds of time.monotonic
    seconds: float  # their forward passes with scores, selection and packing
    # What a cache needs beside them, to serve a smaller ratio:
    evidence: NDArray[np.float32] | None = None  # [P], what decided the budgets; only with the first tiles, if anything
    ranks: NDArray[np.int32] | None = None  # [K], as which token of the image each was picked, if tiles compete


SpanResult = EncodedTiles | VisionSplitError


@dataclass(eq=False)
class ImageJob:
    """One image waiting for the device. Compared by identity."""

    image: PreparedImage
    composition: Composition
    data_type: DataType
    deliver: Callable[[SpanResult], None]  # called on the device's thread
    caller: str = ""  # callers take turns
    text: torch.Tensor | None = None  # [E], what the composition is to look for, where it reads a text
    queued: float = field(default_factory=time.monotonic)
    next_tile: int = 0  # the first tile that has not been taken from the queue
    plan: Plan | None = None  # made on the device's thread, as the next two are set
    held_since: float | None = (
        None  # when the first pass began whose tiles wait for the rest, seconds of time.monotonic
    )
    held_seconds: float = 0.0  # that the passes took whose tiles wait


@dataclass(frozen=True)
class TileSpan:
    """Consecutive tiles of one image, to be encoded together."""

    job: ImageJob
    first: int
    stop: int
