"""Normalises 8-bit samples on the device, by a table of what the checkpoint's image processor makes of each value.

Rescaling and normalising treat every sample by itself, so 256 values for each channel say everything, and the result is
the processor's to the bit. Tiles travel to the device with a byte for each sample instead of four.
"""

import numpy as np
import torch
from torch import nn
from transformers import LlavaNextImageProcessorPil

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

    def fill(self, processor: LlavaNextImageProcessorPil) -> None:
        """Take the values from an image processor."""
        self.table.copy_(levels_of(processor).flatten())
        self.starts.copy_(torch.arange(_CHANNELS, dtype=torch.int32)[:, None, None] * _VALUES)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Normalised pixels [B, 3, H, W] of samples [B, 3, H, W] uint8."""
        index = samples + self.starts  # int32
        return self.table.index_select(0, index.flatten()).view(samples.shape)


def levels_of(processor: LlavaNextImageProcessorPil) -> torch.Tensor:
    """What an image processor makes of each 8-bit value, [3, 256] float32."""
    ramp = np.broadcast_to(np.arange(_VALUES, dtype=np.uint8)[:, None], (_VALUES, _VALUES, _CHANNELS))  # by column
    processed = processor(
        ramp,
        image_grid_pinpoints=[[_VALUES, _VALUES]],
        size={"height": _VALUES, "width": _VALUES},
        crop_size={"height": _VALUES, "width": _VALUES},
        return_tensors="pt",
    )
    levels: torch.Tensor = processed["pixel_values"][0][0, :, 0].float()  # [3, 256]
    return levels
