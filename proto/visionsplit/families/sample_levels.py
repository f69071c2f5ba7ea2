"""Normalises 8-bit samples on the device, by a table of what the checkpoint's image processor makes of each value.

Rescaling and normalising treat every sample by itself, so 256 values for each channel say everything, and the result is
the processor's to the bit. Tiles travel to the device with a byte for each sample instead of four.
"""

import numpy as np
import torch
from torch import nn
from transformers.image_processing_utils import BaseImageProcessor

_VALUES = 256
_CHANNELS = 3


class SampleLevels(nn.Module):
    """The table."""

    table: torch.Tensor  # [3 * 256], channel after channel
    starts: torch.Tensor  # [3, 1, 1] int32, where each channel begins

    def __init__(self) -> None:
        """Allocate the table without filling it."""
        super().__init__()
        self.register_buffer("table", torch.empty(_CHANNELS * _VALUES), persistent=False)
        self.register_buffer("starts", torch.empty(_CHANNELS, 1, 1, dtype=torch.int32), persistent=False)

    def fill(self, levels: torch.Tensor) -> None:
        """Take the values of `levels_of`."""
        self.table.copy_(levels.flatten())
        self.starts.copy_(torch.arange(_CHANNELS, dtype=torch.int32)[:, None, None] * _VALUES)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Normalised pixels [B, 3, H, W] of samples [B, 3, H, W] uint8."""
        index = samples + self.starts  # int32
        return self.table.index_select(0, index.flatten()).view(samples.shape)


def levels_of(processor: BaseImageProcessor, **settings: object) -> torch.Tensor:
    """What an image processor makes of each 8-bit value, [3, 256] float32.

    Args:
        processor: of any family.
        settings: options of the processor with which an image of 256 x 256 pixels is one tile of that size.
    """
    ramp = np.broadcast_to(np.arange(_VALUES, dtype=np.uint8)[:, None], (_VALUES, _VALUES, _CHANNELS))  # by column
    size = {"height": _VALUES, "width": _VALUES}
    processed = processor(ramp, **{"size": size, **settings}, return_tensors="pt")
    pixels: torch.Tensor = processed["pixel_values"]  # [..., 3, 256, 256], maybe several equal tiles
    return pixels.flatten(0, -4)[0, :, 0].float()  # [3, 256]
