"""Token tensors survive the wire, and what is wrong with one is said with its numbers."""

import numpy as np
import pytest
from visionsplit.errors import InvalidTokensError
from visionsplit.options.data_types import DataType
from visionsplit.v1 import tensor_pb2
from visionsplit.wire.tensors import TokenTensor, concatenate

VALUES = np.array([[0.0, 1.5, -2.0], [3.25, -0.5, 64.0]], np.float32)


def tensor(data_type: DataType) -> TokenTensor:
    rows, columns = VALUES.shape
    if data_type is DataType.FLOAT32:
        return TokenTensor(data_type, rows, columns, VALUES.astype("<f4").tobytes())
    if data_type is DataType.FLOAT16:
        return TokenTensor(data_type, rows, columns, VALUES.astype("<f2").tobytes())
    if data_type is DataType.BFLOAT16:
        return TokenTensor(data_type, rows, columns, (VALUES.view("<u4") >> 16).astype("<u2").tobytes())
    scales = (np.abs(VALUES).max(axis=1) / 127).astype("<f4")
    elements = np.round(VALUES / scales[:, None]).astype(np.int8)
    return TokenTensor(data_type, rows, columns, elements.tobytes(), scales.tobytes())


@pytest.mark.parametrize("data_type", list(DataType))
def test_round_trip_keeps_values(data_type: DataType) -> None:
    received = TokenTensor.from_proto(
        tensor_pb2.Tensor.FromString(tensor(data_type).to_proto().SerializeToString())
    ).to_float32()
    tolerance = 0.26 if data_type is DataType.INT8 else 0  # half a step of the coarser row
    np.testing.assert_allclose(received, VALUES, atol=tolerance)


@pytest.mark.parametrize("data_type", list(DataType))
def test_slices_concatenate_to_the_whole(data_type: DataType) -> None:
    whole = tensor(data_type)
    assert concatenate([whole.slice_rows(0, 1), whole.slice_rows(1, 2)]) == whole


@pytest.mark.parametrize("data_type", [DataType.FLOAT32, DataType.FLOAT16, DataType.BFLOAT16])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(data_type: DataType, bad: float) -> None:
    if data_type is DataType.BFLOAT16:
        data = (np.array([[1, bad]], np.float32).view("<u4") >> 16).astype("<u2").tobytes()
    else:
        data = np.array([[1, bad]], "<f4" if data_type is DataType.FLOAT32 else "<f2").tobytes()
    with pytest.raises(InvalidTokensError, match="NaN or an infinity"):
        TokenTensor.from_proto(TokenTensor(data_type, 1, 2, data).to_proto())


@pytest.mark.parametrize("scale", [-1.0, np.nan, np.inf, 3e38, 2.7e36])
def test_a_bad_int8_scale_is_refused(scale: float) -> None:
    message = TokenTensor(DataType.INT8, 1, 2, b"\x01\x02", np.array([scale], "<f4").tobytes()).to_proto()
    with pytest.raises(InvalidTokensError, match="scale"):
        TokenTensor.from_proto(message)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (tensor_pb2.Tensor(data_type=0, shape=[1, 2], data=bytes(8)), "unknown data type 0"),
        (tensor_pb2.Tensor(data_type=1, shape=[2], data=bytes(8)), r"shape \[2\]"),
        (tensor_pb2.Tensor(data_type=1, shape=[0, 2]), r"shape \[0, 2\]"),
        (tensor_pb2.Tensor(data_type=1, shape=[1, 2], data=bytes(7)), "needs 8 bytes of data, got 7"),
        (tensor_pb2.Tensor(data_type=1, shape=[1, 2], data=bytes(9)), "needs 8 bytes of data, got 9"),
        (tensor_pb2.Tensor(data_type=4, shape=[1, 2], data=bytes(2)), "needs 4 bytes of scales, got 0"),
        (tensor_pb2.Tensor(data_type=1, shape=[1, 2], data=bytes(8), scales=bytes(4)), "needs 0 bytes of scales"),
        (tensor_pb2.Tensor(data_type=1, shape=[4_000_000_000, 4_000_000_000], data=bytes(8)), "got 8"),
    ],
)
def test_what_contradicts_itself_is_refused(message: tensor_pb2.Tensor, says: str) -> None:
    with pytest.raises(InvalidTokensError, match=says):
        TokenTensor.from_proto(message)
