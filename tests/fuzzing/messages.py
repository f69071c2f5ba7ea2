"""Hostile messages: random ones from the schema, or valid ones with a change."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

_Field = FieldDescriptor

_INTEGERS = (0, 1, 2, 3, 7, 16, 255, 1024, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**64 - 1)
_FLOATS = (0.0, -0.0, 0.1, 0.25, 1.0, 1.5, 1e-30, 1e30, -1.0, float("inf"), float("-inf"), float("nan"))
_STRINGS = (
    *("", " ", "<image>", "<image> what?", "<image><image>", "none", "globalcom2", "random", "fastv", "user", "system"),
    *("tau", "layer", "\x00", "{{ 7 * 7 }}", "{% raw %}", "../../etc/passwd", "'; --", "\u202e", "ẞ🙂字" * 20, "%s%n"),
    *("a" * 5000, "<image>" * 40, "\n" * 100),
)
_SIGNED = {_Field.TYPE_INT32, _Field.TYPE_SINT32, _Field.TYPE_SFIXED32, _Field.TYPE_INT64, _Field.TYPE_SINT64}
_BITS = {
    **dict.fromkeys((_Field.TYPE_INT64, _Field.TYPE_SINT64, _Field.TYPE_UINT64, _Field.TYPE_FIXED64), 64),
    **dict.fromkeys((_Field.TYPE_INT32, _Field.TYPE_SINT32, _Field.TYPE_UINT32, _Field.TYPE_FIXED32), 32),
}
_MAX_DEPTH = 6


def random_message(rng: random.Random, kind: type[Message], depth: int = 0) -> Message:
    """Any fields with any values that the schema can carry."""
    message = kind()
    for field in message.DESCRIPTOR.fields:
        if rng.random() < 0.5 and depth < _MAX_DEPTH:
            _set(rng, message, field, depth)
    return message


def mutated(rng: random.Random, message: Message) -> Message:
    """A copy with one to three fields, at any depth, changed, repeated, or left out."""
    copy = type(message)()
    copy.CopyFrom(message)
    for _ in range(rng.randint(1, 3)):
        target: Any = copy
        while True:
            nested = [child for child in _children(target) if rng.random() < 0.7]
            if not nested or rng.random() < 0.25:
                break
            target = rng.choice(nested)
        field = rng.choice(target.DESCRIPTOR.fields) if target.DESCRIPTOR.fields else None
        if field is None:
            continue
        if rng.random() < 0.2:
            target.ClearField(field.name)
        else:
            _set(rng, target, field, depth=2)
    return copy


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Bytes with some flipped, cut out, doubled or put in."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(changed) + 1)
        stop = min(len(changed), start + rng.choice((1, 2, 8, 64)))
        action = rng.randrange(4)
        if action == 0 and start < len(changed):
            changed[start] ^= 1 << rng.randrange(8)
        elif action == 1:
            del changed[start:stop]
        elif action == 2:
            changed[start:start] = changed[start:stop]
        else:
            changed[start:start] = rng.randbytes(rng.choice((1, 3, 16)))
    return bytes(changed[: rng.randrange(1, len(changed) + 1)]) if changed and rng.random() < 0.2 else bytes(changed)


def shuffled(rng: random.Random, parts: Sequence[bytes], other: Callable[[bytes], bytes]) -> list[bytes]:
    """A stream with a part left out, repeated, moved or replaced by `other` of it."""
    changed = list(parts)
    for _ in range(rng.randint(1, 2)):
        if not changed:
            break
        index, action = rng.randrange(len(changed)), rng.randrange(4)
        part = changed.pop(index)
        if action == 1:
            changed[index:index] = [part, part]
        elif action == 2:
            changed.insert(rng.randrange(len(changed) + 1), part)
        elif action == 3:
            changed.insert(index, other(part))
    return changed


def parsed(kind: type[Message], data: bytes) -> Message:
    """The message in these bytes, or an empty one."""
    try:
        return kind.FromString(data)
    except DecodeError:
        return kind()


def _children(message: Any) -> list[Any]:
    children = []
    for field, value in message.ListFields():
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            children += list(value) if field.is_repeated else [value]
    return children


def _set(rng: random.Random, message: Any, field: FieldDescriptor, depth: int) -> None:
    place = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        for _ in range(rng.randint(0, 3)):
            place[_scalar(rng, key)] = _scalar(rng, value)
    elif field.message_type is not None:
        kind = GetMessageClass(field.message_type)
        if field.is_repeated:
            place.extend(random_message(rng, kind, depth + 1) for _ in range(rng.randint(0, 3)))
        else:
            place.CopyFrom(random_message(rng, kind, depth + 1))
    elif field.is_repeated:
        place.extend(_scalar(rng, field) for _ in range(rng.choice((0, 1, 2, 5, 40))))
    else:
        setattr(message, field.name, _scalar(rng, field))


def _scalar(rng: random.Random, field: FieldDescriptor) -> Any:
    kind = field.type
    if kind in (_Field.TYPE_FLOAT, _Field.TYPE_DOUBLE):
        return rng.choice((*_FLOATS, rng.random(), rng.uniform(-100, 100)))
    if kind == _Field.TYPE_BOOL:
        return rng.random() < 0.5
    if kind == _Field.TYPE_STRING:
        return rng.choice(_STRINGS)
    if kind == _Field.TYPE_BYTES:
        return rng.randbytes(rng.choice((0, 1, 7, 64, 4096)))
    if kind == _Field.TYPE_ENUM:
        return rng.choice((*field.enum_type.values_by_number, 99, -1, 2**31 - 1))
    value = rng.choice((*_INTEGERS, rng.randrange(200))) % 2 ** _BITS.get(kind, 31)
    if kind in _SIGNED:
        value = min(value, 2 ** (_BITS.get(kind, 32) - 1) - 1)
        return -value if rng.random() < 0.3 else value
    return value
