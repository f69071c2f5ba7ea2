"""Token tensors on the wire: data type + shape + little-endian bytes, validated before use."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visionsplit.errors import InvalidTokensError, UnknownFieldError
from visionsplit.options.data_types import DataType
from visionsplit.options.messages import data_type_from_proto, data_type_to_proto
from visionsplit.v1 import tensor_pb2

# The exponent bits of each floating format, on an unsigned view; all set means NaN or infinity.
_EXPONENT: dict[DataType, tuple[np.dtype[np.unsignedinteger], int]] = {
    DataType.FLOAT32: (np.dtype("<u4"), 0x7F800000),
    DataType.FLOAT16: (np.dtype("<u2"), 0x7C00),
    DataType.BFLOAT16: (np.dtype("<u2"), 0x7F80),
}
_LARGEST_SCALE = np.finfo(np.float32).max / np.float32(128)  # an element reaches -128


@dataclass(frozen=True)
class TokenTensor:
    """Rows of vision tokens in wire format.

    `data` holds rows * columns little-endian elements; `scales` holds one float32 per row for INT8, else nothing.
    """

    data_type: DataType
    rows: int
    columns: int
    data: bytes
    scales: bytes = b""

    @property
    def num_bytes(self) -> int:
        return len(self.data) + len(self.scales)

    def slice_rows(self, start: int, stop: int) -> "TokenTensor":
        """Rows [start, stop)."""
        width = self.columns * self.data_type.itemsize
        overhead = self.data_type.row_overhead
        return TokenTensor(
            self.data_type,
            stop - start,
            self.columns,
            self.data[start * width : stop * width],
            self.scales[start * overhead : stop * overhead],
        )

    def to_float32(self) -> NDArray[np.float32]:
        """The values as float32, [rows, columns]."""
        shape = (self.rows, self.columns)
        if self.data_type is DataType.FLOAT32:
            return np.frombuffer(self.data, "<f4").reshape(shape).astype(np.float32)
        if self.data_type is DataType.FLOAT16:
            return np.frombuffer(self.data, "<f2").reshape(shape).astype(np.float32)
        if self.data_type is DataType.BFLOAT16:
            widened = np.frombuffer(self.data, "<u2").astype("<u4") << 16
            return widened.view("<f4").reshape(shape).astype(np.float32)
        elements = np.frombuffer(self.data, np.int8).reshape(shape).astype(np.float32)
        scales: NDArray[np.float32] = np.frombuffer(self.scales, "<f4")[:, None]
        return elements * scales

    def to_proto(self) -> tensor_pb2.Tensor:
        return tensor_pb2.Tensor(
            data_type=data_type_to_proto(self.data_type),
            shape=(self.rows, self.columns),
            data=self.data,
            scales=self.scales,
        )

    @classmethod
    def from_proto(cls, message: tensor_pb2.Tensor) -> "TokenTensor":
        """Validate a received tensor.

        Raises:
            InvalidTokensError: the type, the shape, the byte count or a value violates the protocol.
        """
        try:
            data_type = data_type_from_proto(message.data_type)
        except UnknownFieldError:
            raise InvalidTokensError(f"tensor has unknown data type {message.data_type}") from None
        if len(message.shape) != 2 or 0 in message.shape:
            raise InvalidTokensError(
                f"tensor has shape {list(message.shape)}; two positive entries, [tokens, feature_size], are needed"
            )
        rows, columns = message.shape
        data, scales = message.data, message.scales  # read once: protobuf copies a field of bytes whenever it is read
        _check_length("data", len(data), rows * columns * data_type.itemsize, data_type, rows, columns)
        _check_length("scales", len(scales), rows * data_type.row_overhead, data_type, rows, columns)
        tensor = cls(data_type, rows, columns, data, scales)
        _check_values(tensor)
        return tensor


def concatenate(tensors: list[TokenTensor]) -> TokenTensor:
    """Stack tensors of one data type and width by rows. The list must not be empty."""
    first = tensors[0]
    if len(tensors) == 1:
        return first
    return TokenTensor(
        first.data_type,
        sum(tensor.rows for tensor in tensors),
        first.columns,
        b"".join(tensor.data for tensor in tensors),
        b"".join(tensor.scales for tensor in tensors),
    )


def _check_length(what: str, found: int, expected: int, data_type: DataType, rows: int, columns: int) -> None:
    if found != expected:
        raise InvalidTokensError(
            f"tensor of {rows} x {columns} {data_type.value} needs {expected} bytes of {what}, got {found}"
        )


def _check_values(tensor: TokenTensor) -> None:
    if tensor.data_type is DataType.INT8:
        scales = np.frombuffer(tensor.scales, "<f4")
        if not (np.isfinite(scales).all() and (scales >= 0).all()):
            raise InvalidTokensError("int8 tensor has a scale that is negative, NaN or infinite")
        if (scales > _LARGEST_SCALE).any():
            raise InvalidTokensError(
                f"int8 tensor has a scale above {_LARGEST_SCALE:.7g}; its values would be infinite"
            )
        return
    dtype, exponent = _EXPONENT[tensor.data_type]
    if ((np.frombuffer(tensor.data, dtype) & exponent) == exponent).any():
        raise InvalidTokensError("tensor holds a NaN or an infinity")
