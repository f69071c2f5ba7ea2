"""One image's encoding on the device: what is asked for, how far the device has come, and what comes out.

Nothing here knows of queues, callers or capacity, so an image can be encoded without any of them:
`BatchEncoder.encode_image` takes an `EncodeRequest`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from visionsplit.errors import VisionSplitError
from visionsplit.grid import TileGrid
from visionsplit.options.data_types import DataType
from visionsplit.wire.tensors import TokenTensor
from visionsplit.wire.vision_tokens import Positions

from encoder_service.compression import Composition, Plan


@dataclass(eq=False)
class PreparedImage:
    """An image cut into tiles. Compared by identity."""

    pixels: torch.Tensor  # [T, 3, H, W] uint8, CPU; [0] once they have been released
    grid: TileGrid
    preprocess_seconds: float = 0.0  # time for decoding and cutting

    def release_pixels(self) -> None:
        """Free the pixels' memory. The device must not need them any more."""
        self.pixels = self.pixels.new_empty(0)


@dataclass(frozen=True)
class EncodeRequest:
    """The request to encode an image."""

    image: PreparedImage
    composition: Composition
    data_type: DataType
    text: torch.Tensor | None = None  # [E], the text tower's embedding, if the composition reads a text


@dataclass(eq=False)
class ImageEncoding:
    """What the device's thread keeps of one image between its first batch and its last. Compared by identity.

    No other thread may use anything but the request.
    """

    request: EncodeRequest
    plan: Plan | None = None  # created with the first batch, since its tensors are on the device
    held_since: float | None = None  # start of the first pass whose tiles wait for the rest, seconds of time.monotonic
    held_seconds: float = 0.0  # time of the forward passes whose tiles wait for the rest


@dataclass(frozen=True)
class TileSpan:
    """Consecutive tiles of one image, to be encoded together."""

    encoding: ImageEncoding
    first: int
    stop: int


@dataclass(frozen=True)
class EncodedTiles:
    """The kept tokens of consecutive tiles of one image, or of all its tiles if the method waits for the last."""

    stop_tile: int  # index after the last of these tiles
    budgets: list[int]  # of the whole image, thumbnail first
    quotas: list[int] | None  # of the whole image, if only these were requested
    features: TokenTensor  # [K, Dv]; K may be 0
    positions: Positions  # [K, 3]
    started: float  # when these tiles' first forward pass began, seconds of time.monotonic
    seconds: float  # their forward passes with scores, selection and packing
    # Further values with which a cache can serve a smaller ratio:
    evidence: NDArray[np.float32] | None = None  # [P], the basis of the budgets, if any; only with the first tiles
    ranks: NDArray[np.int32] | None = None  # [K], the order of picking over all tiles, if these compete


SpanResult = EncodedTiles | VisionSplitError
