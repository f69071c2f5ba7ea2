"""Converts the input's other columns to JSON values, and these to text that files can hold."""

import base64
import datetime
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

Carry = Sequence[str] | None  # names of the input's columns to keep; None keeps all of them

MAX_DEPTH = 64
"""Limit on the nesting of lists and objects in a value. JSON readers and recursion have limits too."""


def json_values(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A row's columns as JSON values.

    Numbers that JSON does not have (NaN, the infinities) become null. Bytes become base64 text. Dates, times and
    durations become ISO 8601 text; decimals and UUIDs become text with all their digits.

    Raises:
        ValueError: a value has another type, or is nested deeper than `MAX_DEPTH`. The message names the column.
    """
    return {name: _named(name, value) for name, value in fields.items()}


def carried(fields: Mapping[str, Any], carry: Carry) -> dict[str, Any]:
    """The columns to keep. A named column that the row lacks is null, so that all rows have the same columns.

    Args:
        fields: JSON values from `json_values`.
        carry: the names of the columns; None keeps all of them.
    """
    names = list(fields) if carry is None else carry
    return {plain_text(name): _plain(fields.get(name)) for name in names}


def plain_text(text: str) -> str:
    r"""The text with lone surrogates, as in a file name that is not UTF-8, written like `\udcff`: files cannot store
    them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _named(name: str, value: object) -> object:
    try:
        return _json_value(value, MAX_DEPTH)
    except ValueError as error:
        raise ValueError(f"the column {name!r} cannot be written: {error}") from error


def _json_value(value: object, depth: int) -> object:
    if depth == 0:
        raise ValueError(f"its value is nested deeper than {MAX_DEPTH} levels")
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode()
        case Mapping():
            return {str(key): _json_value(one, depth - 1) for key, one in value.items()}
        case list() | tuple():
            return [_json_value(one, depth - 1) for one in value]
        case Decimal() | UUID():
            return str(value)
        case datetime.date() | datetime.time():  # a datetime is a date, too
            return value.isoformat()
        case datetime.timedelta():
            return iso_duration(value // datetime.timedelta(microseconds=1), 1_000_000)
    raise ValueError(f"JSON cannot represent {type(value).__name__}")


def iso_duration(count: int, per_second: int) -> str:
    """A duration of `count` units in ISO 8601 seconds, such as `PT90.5S`, without rounding.

    Args:
        count: the number of units.
        per_second: the number of units in a second: a power of ten.
    """
    seconds, rest = divmod(abs(count), per_second)
    digits = len(str(per_second)) - 1
    fraction = f".{rest:0{digits}d}".rstrip("0").rstrip(".") if digits else ""
    return f"{'-' if count < 0 else ''}PT{seconds}{fraction}S"


def _plain(value: Any) -> Any:  # noqa: ANN401 - a column may hold any type
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, Mapping):
        return {plain_text(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
