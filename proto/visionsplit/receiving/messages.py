"""Parses requests, after checks that cost little before protobuf builds objects from the bytes."""

from dataclasses import dataclass
from functools import cache
from typing import TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from visionsplit.errors import InvalidPromptError, InvalidRequestError, UnknownFieldError
from visionsplit.receiving.prompts import MAX_PROMPT_BYTES
from visionsplit.v1 import generation_pb2

# Fields and list entries of one message, nested messages included. A conversation of a thousand turns has about five
# thousand.
MAX_ENTRIES = 10_000

_PROMPT: Descriptor = generation_pb2.Prompt.DESCRIPTOR
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_BYTES = 10
_WIRE_TYPE_OF = {
    FieldDescriptor.TYPE_DOUBLE: _FIXED64,
    FieldDescriptor.TYPE_FIXED64: _FIXED64,
    FieldDescriptor.TYPE_SFIXED64: _FIXED64,
    FieldDescriptor.TYPE_FLOAT: _FIXED32,
    FieldDescriptor.TYPE_FIXED32: _FIXED32,
    FieldDescriptor.TYPE_SFIXED32: _FIXED32,
    FieldDescriptor.TYPE_STRING: _LENGTH,
    FieldDescriptor.TYPE_BYTES: _LENGTH,
    FieldDescriptor.TYPE_MESSAGE: _LENGTH,
}

MessageT = TypeVar("MessageT", bound=Message)


def parse(kind: type[MessageT], data: bytes, *, max_prompt_bytes: int = MAX_PROMPT_BYTES) -> MessageT:
    """Parse the message that `data` encodes.

    protobuf would silently drop unknown fields, and the caller would get an answer to another question. It would also
    build an object for each of the millions of empty messages that fit into a few megabytes. So the fields are counted
    and looked up first, which takes at most a few milliseconds for any bytes. A prompt that is too long is refused here
    as well, because protobuf checks that its text is UTF-8, which takes up to 10 ms for 4 MiB.

    Raises:
        InvalidPromptError: a prompt has more than `max_prompt_bytes`.
        UnknownFieldError: a field that this version does not know, at any depth; names the first one found.
        InvalidRequestError: there are more than `MAX_ENTRIES` fields and list entries, or the bytes are not a message
            of this kind.
    """
    _check(data, cast(Descriptor, kind.DESCRIPTOR), max_prompt_bytes)
    try:
        return kind.FromString(data)
    except DecodeError:
        raise _malformed() from None


def has_bytes(descriptor: Descriptor) -> bool:
    """Whether a message, or one nested in it, has a field of type bytes."""
    found, waiting = {descriptor.full_name}, [descriptor]
    while waiting:
        for field in waiting.pop().fields:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return True
            if field.message_type is not None and field.message_type.full_name not in found:
                found.add(field.message_type.full_name)
                waiting.append(field.message_type)
    return False


@dataclass(frozen=True)
class _Field:
    """The properties of a field that the check uses."""

    wire_types: tuple[int, ...]  # those that protobuf does not treat as an unknown field
    packed_bytes: int  # minimum size of an entry of repeated numbers, which may be packed into one value; 0 for others
    message: Descriptor | None  # the type of a message field


@cache
def _fields_of(descriptor: Descriptor) -> dict[int, _Field]:
    return {field.number: _field_of(field) for field in descriptor.fields}


def _field_of(field: FieldDescriptor) -> _Field:
    wire_type = _WIRE_TYPE_OF.get(field.type, _VARINT)
    if field.is_repeated and wire_type != _LENGTH:
        return _Field((wire_type, _LENGTH), _FIXED_BYTES.get(wire_type, 1), None)
    return _Field((wire_type,), 0, field.message_type)


def _check(data: bytes, descriptor: Descriptor, max_prompt_bytes: int) -> None:
    """Iterate over the fields of a message and of its nested messages without copying."""
    left, prompt_bytes = MAX_ENTRIES, 0
    waiting = [(0, len(data), descriptor)]
    while waiting:
        at, end, descriptor = waiting.pop()
        fields = _fields_of(descriptor)
        while at < end:
            tag = data[at]
            # Most tags take one byte, so they are read inline: a call for each would dominate the time of a check.
            at += 1
            if tag >= 0x80:
                tag, at = _varint(data, at - 1, end)
            field = fields.get(tag >> 3)
            if field is None or tag & 7 not in field.wire_types:
                raise _unknown(tag >> 3, descriptor)
            begin, at = _value(data, at, end, tag & 7)
            left -= (at - begin) // field.packed_bytes if field.packed_bytes and tag & 7 == _LENGTH else 1
            if left < 0:
                raise InvalidRequestError(
                    f"the request has more than {MAX_ENTRIES} fields and list entries; that is the most it may have"
                )
            if field.message is not None:
                if field.message is _PROMPT:
                    prompt_bytes += at - begin  # summed, since protobuf merges a field that appears repeatedly
                    if prompt_bytes > max_prompt_bytes:
                        raise InvalidPromptError(
                            f"the prompt has {prompt_bytes} bytes; at most {max_prompt_bytes} are accepted"
                        )
                waiting.append((begin, at, field.message))


def _value(data: bytes, at: int, end: int, wire_type: int) -> tuple[int, int]:
    """The start of a field's value, after its length if it has one, and the end of the value."""
    if wire_type == _VARINT:
        return at, _varint(data, at, end)[1]
    if wire_type == _LENGTH:
        length, at = _varint(data, at, end)
    else:
        length = _FIXED_BYTES[wire_type]
    if at + length > end:
        raise _malformed()
    return at, at + length


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Read a base-128 number; return it and its end."""
    if at < end and data[at] < 0x80:
        return data[at], at + 1
    value = 0
    for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _malformed()


def _unknown(number: int, descriptor: Descriptor) -> UnknownFieldError:
    return UnknownFieldError(
        f"field {number} of {descriptor.full_name} is unknown here; the client may be newer than this server"
    )


def _malformed() -> InvalidRequestError:
    return InvalidRequestError("the request cannot be parsed; it is not a message of this protocol")
