"""The number formats as PyTorch's types."""

from collections.abc import Mapping

import torch

from visionsplit.options.data_types import DTYPE_NAMES, DataType

TORCH_TYPES: Mapping[DataType, torch.dtype] = {data_type: getattr(torch, data_type.value) for data_type in DataType}
DATA_TYPES_OF: Mapping[torch.dtype, DataType] = {dtype: data_type for data_type, dtype in TORCH_TYPES.items()}
# The types of weights and activations that a service may be configured with, by name.
DTYPES: Mapping[str, torch.dtype] = {name: TORCH_TYPES[DataType(name)] for name in DTYPE_NAMES}
