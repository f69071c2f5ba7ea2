"""Converts values of Arrow types to Python values that a row can have: text, numbers, bytes, lists and dicts.

Arrow's `as_py` raises for values that Python cannot represent (nanoseconds without pandas, years beyond 9999, text that
is not UTF-8). Such a value must not end the reading of its table, nor depend on which packages are installed.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from visionsplit_batch.rows.fields import iso_duration

_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_NANOSECONDS_A_DAY = 86_400 * 1_000_000_000


def row_values(batch: pa.RecordBatch, row: int) -> dict[str, Any]:
    """The values of one row by column name.

    Raises:
        ValueError: a value cannot be converted; the message names its column.
    """
    return {name: _named(name, batch.column(index)[row]) for index, name in enumerate(batch.schema.names)}


def cell(scalar: pa.Scalar) -> Any:  # noqa: ANN401 - a column may hold any type
    """Convert one value. Times and decimals become text in the form of `fields.json_values`; bytes stay bytes."""
    if not scalar.is_valid:
        return None
    kind = scalar.type
    for applies, read in _READERS:
        if applies(kind):
            return read(scalar)
    return scalar.as_py()


def _named(name: str, scalar: pa.Scalar) -> Any:  # noqa: ANN401
    try:
        return cell(scalar)
    except (ValueError, OverflowError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"the column {name!r} cannot be read: {error}") from error


def _items(scalar: pa.Scalar) -> list[Any]:
    values = scalar.values
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        numbers: list[Any] = values.to_pylist()  # fast, for long lists such as embeddings
        return numbers
    return [cell(one) for one in values]


def _struct(scalar: pa.Scalar) -> dict[str, Any]:
    names = [field.name for field in scalar.type]
    if len(set(names)) < len(names):
        raise ValueError("a struct has several fields with the same name")
    return {name: cell(scalar[index]) for index, name in enumerate(names)}


def _map(scalar: pa.Scalar) -> Any:  # noqa: ANN401
    """An object, if the keys are distinct texts; otherwise a list of pairs."""
    pairs = [tuple(_struct(pair).values()) for pair in scalar.values]
    keys = [key for key, _ in pairs]
    if all(isinstance(key, str) for key in keys) and len(set(keys)) == len(keys):
        return dict(pairs)
    return [list(pair) for pair in pairs]


def _text(scalar: pa.Scalar) -> str:
    data: bytes = scalar.as_buffer().to_pybytes()
    return data.decode("utf-8", "surrogateescape")


def _timestamp(scalar: pa.Scalar) -> str:
    """An ISO 8601 timestamp, in UTC if the type has a time zone."""
    moment = np.datetime64(scalar.value, scalar.type.unit)
    if np.isnat(moment):  # the lowest number stands for "not a time" in NumPy, while Arrow allows it
        raise ValueError(f"{scalar.value} {scalar.type.unit} is not a moment")
    return _short(str(np.datetime_as_string(moment))) + ("Z" if scalar.type.tz is not None else "")


def _date(scalar: pa.Scalar) -> str:
    days = scalar.value if pa.types.is_date32(scalar.type) else scalar.value // 86_400_000
    return str(np.datetime_as_string(np.datetime64(days, "D")))


def _time(scalar: pa.Scalar) -> str:
    nanoseconds = scalar.value * (1_000_000_000 // _PER_SECOND[scalar.type.unit])
    if not 0 <= nanoseconds < _NANOSECONDS_A_DAY:
        raise ValueError(f"{scalar.value} {scalar.type.unit} is not a time of day")
    return _short(str(np.datetime_as_string(np.datetime64(nanoseconds, "ns"))).partition("T")[2])


def _duration(scalar: pa.Scalar) -> str:
    return iso_duration(scalar.value, _PER_SECOND[scalar.type.unit])


def _interval(scalar: pa.Scalar) -> str:
    months, days, nanoseconds = scalar.as_py()
    return f"P{months}M{days}D{iso_duration(nanoseconds, 1_000_000_000).replace('PT', 'T').replace('-T', 'T-')}"


def _short(time: str) -> str:
    """Remove trailing zeros from the fraction of a second."""
    return time.rstrip("0").rstrip(".") if "." in time else time


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def may_hold_images(kind: pa.DataType) -> bool:
    """Whether values of the type can be images: text, bytes, {"bytes", "path"}, or lists of these."""
    types = pa.types
    if _is_list(kind):
        return may_hold_images(kind.value_type)
    if types.is_dictionary(kind):
        return may_hold_images(kind.value_type)
    if types.is_struct(kind):
        return {field.name for field in kind} <= {"bytes", "path"}
    binary = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return is_text(kind) or bool(binary or types.is_fixed_size_binary(kind) or types.is_null(kind))


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether values of the type can contain an image's bytes: bytes, {"bytes", "path"}, or lists of these."""
    types = pa.types
    if types.is_struct(kind):
        return may_hold_images(kind) and kind.get_field_index("bytes") >= 0
    if _is_list(kind) or types.is_dictionary(kind):
        return holds_bytes(kind.value_type)
    return may_hold_images(kind) and not is_text(kind) and not types.is_null(kind)


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_wrapper(kind: pa.DataType) -> bool:
    """Whether a scalar of the type wraps one of another type."""
    types = pa.types
    known = types.is_dictionary(kind) or types.is_union(kind) or types.is_run_end_encoded(kind)
    return bool(known) or isinstance(kind, pa.BaseExtensionType)


def _is_uuid(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.UuidType)


def _wrapped(scalar: pa.Scalar) -> Any:  # noqa: ANN401
    return cell(scalar.value)


_READERS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Scalar], Any]], ...] = (
    (is_text, _text),
    (_is_uuid, lambda scalar: str(scalar.as_py())),
    (_is_wrapper, _wrapped),
    (pa.types.is_map, _map),
    (pa.types.is_struct, _struct),
    (_is_list, _items),
    (pa.types.is_timestamp, _timestamp),
    (pa.types.is_date, _date),
    (pa.types.is_time, _time),
    (pa.types.is_duration, _duration),
    (pa.types.is_interval, _interval),
    (pa.types.is_decimal, lambda scalar: str(scalar.as_py())),
)  # the first that applies is used


def column_cells(column: pa.Array) -> Iterator[Any]:
    """The values of a column; None in place of a value that cannot be converted."""
    for scalar in column:
        try:
            yield cell(scalar)
        except (ValueError, OverflowError, TypeError, pa.ArrowException):
            yield None
