"""Packs kept tokens as tensors of the wire format: conversion on the device, then one copy to the host."""

from dataclasses import dataclass

import numpy as np
import torch
from visionsplit.errors import InternalError, InvalidRequestError
from visionsplit.families.tower_outputs import all_finite
from visionsplit.model.dtypes import TORCH_TYPES
from visionsplit.options.data_types import DataType
from visionsplit.wire.tensors import TokenTensor

# The format to suggest to a caller whose features overflow another one.
_WIDER = {DataType.FLOAT16: "bfloat16 or float32", DataType.BFLOAT16: "float32"}


@dataclass(frozen=True)
class PackedTokens:
    """Tokens in wire format, still as PyTorch tensors."""

    data_type: DataType
    elements: torch.Tensor  # [K, Dv] in the wire format's type
    finite: torch.Tensor  # [] bool, whether features and scores were finite before the conversion
    scales: torch.Tensor | None = None  # [K] float32, INT8 only

    @property
    def tensors(self) -> list[torch.Tensor]:
        return [self.elements, self.finite] if self.scales is None else [self.elements, self.finite, self.scales]

    def with_tensors(self, tensors: list[torch.Tensor]) -> "PackedTokens":
        """The same tokens in other memory, given copies of `tensors`."""
        return PackedTokens(self.data_type, *tensors)


def pack(features: torch.Tensor, data_type: DataType, sound: torch.Tensor | None = None) -> PackedTokens:
    """Convert features [K, Dv] on their device; `sound` [] bool is whether what they were chosen by is finite.

    INT8 is symmetric per token: scale = max |x| / 127, element = round(x / scale), to even on a tie.
    """
    finite = all_finite(features)
    finite = finite if sound is None else finite & sound
    if data_type is not DataType.INT8:
        return PackedTokens(data_type, features.to(TORCH_TYPES[data_type]), finite)
    wide = features.float()
    scales = wide.abs().amax(dim=1) / 127  # [K]
    divisors = torch.where(scales > 0, scales, torch.ones_like(scales))
    elements = torch.round(wide / divisors[:, None]).clamp_(-127, 127).to(torch.int8)
    return PackedTokens(data_type, elements, finite, scales)


def to_host(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Copy the tensors to the CPU, waiting for the device only once."""
    if not tensors or tensors[0].device.type != "cuda":
        return [tensor.cpu() for tensor in tensors]
    copies = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return copies


def to_token_tensor(packed: PackedTokens) -> TokenTensor:
    """Convert packed tokens that are on the CPU to the wire's tensor.

    Raises:
        InternalError: a feature or score of the vision tower's is NaN or infinite.
        InvalidRequestError: a value is too large for the data type.
    """
    if not packed.finite:
        raise InternalError("the vision tower's features or scores are not finite")
    if packed.scales is None and not all_finite(packed.elements):
        data_type = packed.data_type
        raise InvalidRequestError(f"the image's features do not fit {data_type.value}; ask for {_WIDER[data_type]}")
    rows, columns = packed.elements.shape
    scales = b"" if packed.scales is None else _bytes(packed.scales)
    return TokenTensor(packed.data_type, rows, columns, _bytes(packed.elements), scales)


def _bytes(tensor: torch.Tensor) -> bytes:
    """The tensor's elements, little-endian, without padding."""
    raw = tensor.contiguous().view(torch.uint8).numpy()
    if np.little_endian:
        return raw.tobytes()
    return raw.reshape(-1, tensor.element_size())[:, ::-1].tobytes()
