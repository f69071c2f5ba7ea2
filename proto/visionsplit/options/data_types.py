"""The number formats of vision tokens and of models."""

import enum
from typing import Literal, get_args

DataTypeName = Literal["float32", "float16", "bfloat16", "int8"]
DATA_TYPES: tuple[DataTypeName, ...] = get_args(DataTypeName)
DTYPE_NAMES = ("float32", "float16", "bfloat16")  # in which models compute


class DataType(enum.Enum):
    """Storage format of a tensor's elements; the value is its name."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"

    @property
    def itemsize(self) -> int:
        return {"FLOAT32": 4, "FLOAT16": 2, "BFLOAT16": 2, "INT8": 1}[self.name]

    @property
    def row_overhead(self) -> int:
        """Bytes per row in addition to the elements: the scale of an int8 row."""
        return 4 if self is DataType.INT8 else 0


def data_type_of(name: str) -> DataType:
    """Raises ValueError for an unknown name."""
    if name not in DATA_TYPES:
        raise ValueError(f"data type {name!r} is unknown; {', '.join(DATA_TYPES)} exist")
    return DataType(name)
