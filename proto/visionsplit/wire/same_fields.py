"""From a message of the protocol to a value with fields of the same names."""

import dataclasses
from typing import Any, TypeVar

from google.protobuf.message import Message

T = TypeVar("T")


def from_message(kind: type[T], message: Message, **converted: Any) -> T:  # noqa: ANN401 - fields of any type
    """A value with the message's fields.

    Args:
        kind: a dataclass; all its fields that are not in `converted` are numbers or texts of the message.
        converted: the other fields, such as those that hold messages.
    """
    assert dataclasses.is_dataclass(kind), "only a dataclass says which fields it has"
    names = [field.name for field in dataclasses.fields(kind) if field.name not in converted]
    return kind(**{name: getattr(message, name) for name in names}, **converted)
