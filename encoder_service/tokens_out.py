"""Kept tokens to the wire's tensors: conversion on the device, one copy to the host."""

from dataclasses import dataclass

import numpy as np
import torch
from visionsplit.errors import InternalError
from visionsplit.wire.tensors import DataType, TokenTensor

_TORCH_TYPE = {
    DataType.FLOAT32: torch.float32,
    DataType.FLOAT16: torch.float16,
    DataType.BFLOAT16: torch.bfloat16,
    DataType.INT8: torch.int8,
}


@dataclass(frozen=True)
class PackedTokens:
    """Tokens in their wire format, still as tensors."""

    data_type: DataType
    elements: torch.Tensor  # [K, Dv] in the wire's type
    scales: torch.Tensor | None  # [K] float32, INT8 only

    @property
    def tensors(self) -> list[torch.Tensor]:
        return [self.elements] if self.scales is None else [self.elements, self.scales]

    def with_tensors(self, tensors: list[torch.Tensor]) -> "PackedTokens":
        """The same tokens in other memory, from copies of `tensors`."""
        return PackedTokens(self.data_type, tensors[0], tensors[1] if len(tensors) > 1 else None)


def pack(features: torch.Tensor, data_type: DataType) -> PackedTokens:
    """Convert features [K, Dv] on their device.

    INT8 is symmetric per token: scale = max |x| / 127, element = round(x / scale), to even on a tie.
    """
    if data_type is not DataType.INT8:
        return PackedTokens(data_type, features.to(_TORCH_TYPE[data_type]), None)
    wide = features.float()
    scales = wide.abs().amax(dim=1) / 127  # [K]
    divisors = torch.where(scales > 0, scales, torch.ones_like(scales))
    elements = torch.round(wide / divisors[:, None]).clamp_(-127, 127).to(torch.int8)
    return PackedTokens(data_type, elements, scales)


def to_host(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors on the CPU, after a single wait for the device."""
    if not tensors or tensors[0].device.type != "cuda":
        return [tensor.cpu() for tensor in tensors]
    copies = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return copies


def to_token_tensor(packed: PackedTokens) -> TokenTensor:
    """The wire's tensor of packed tokens that are on the CPU.

    Raises:
        InternalError: a value is NaN or infinite, in the vision tower's output or by overflow of the data type.
    """
    checked = packed.elements if packed.scales is None else packed.scales
    if not torch.isfinite(checked).all():
        raise InternalError(f"the vision tower's features do not fit {packed.data_type.name.lower()}")
    rows, columns = packed.elements.shape
    scales = b"" if packed.scales is None else _bytes(packed.scales)
    return TokenTensor(packed.data_type, rows, columns, _bytes(packed.elements), scales)


def _bytes(tensor: torch.Tensor) -> bytes:
    """The tensor's elements, little-endian, without padding."""
    raw = tensor.contiguous().view(torch.uint8).numpy()
    if np.little_endian:
        return raw.tobytes()
    return raw.reshape(-1, tensor.element_size())[:, ::-1].tobytes()
