"""Options as the protocol's messages, and back: the only conversion of each, for both services and all clients.

The options' own modules do not import the protocol, so that what only works with options (the compression, the
pruning methods, the command lines) needs no protobuf. An option has the same name in its class and in its message, and
the conversion goes by these names: a new option needs no line here.
"""

import dataclasses
from collections.abc import MutableMapping, MutableSequence
from typing import Any, cast

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message

from visionsplit.errors import InvalidRequestError, UnknownFieldError
from visionsplit.options.compression import Compression
from visionsplit.options.data_types import DataType
from visionsplit.options.layout import Layout
from visionsplit.options.prefill import PositionIds, Prefill, Pruning
from visionsplit.options.sampling import Sampling
from visionsplit.v1 import generation_pb2, tensor_pb2, vision_tokens_pb2

_UNSPECIFIED = "UNSPECIFIED"  # how the protocol's enumerations name their number 0


def compression_to_proto(compression: Compression) -> vision_tokens_pb2.Compression:
    return vision_tokens_pb2.Compression(**{**_present(compression), "layout": layout_to_proto(compression.layout)})


def compression_from_proto(message: vision_tokens_pb2.Compression) -> Compression:
    """A request's compression; the encoder's `compose` checks its names and ranges.

    Raises:
        UnknownFieldError: an unknown layout.
    """
    return Compression(**{**_values(message, Compression), "layout": layout_from_proto(message.layout)})


def pruning_to_proto(pruning: Pruning) -> generation_pb2.Pruning:
    return generation_pb2.Pruning(**_present(pruning))


def pruning_from_proto(message: generation_pb2.Pruning) -> Pruning:
    """A request's pruning; the LLM service's `compose` checks its names and ranges."""
    return Pruning(**_values(message, Pruning))


def prefill_to_proto(prefill: Prefill) -> generation_pb2.Prefill:
    return generation_pb2.Prefill(
        pruning=None if prefill.pruning is None else pruning_to_proto(prefill.pruning),
        position_ids=generation_pb2.PositionIds.Value(f"POSITION_IDS_{prefill.position_ids.upper()}"),
    )


def prefill_from_proto(message: generation_pb2.Prefill) -> Prefill:
    """What a request says of the prompt's reading.

    Raises:
        InvalidRequestError: unknown position ids.
    """
    name = _name(generation_pb2.PositionIds.DESCRIPTOR, message.position_ids)
    if name is None:
        raise InvalidRequestError(
            f"position ids {message.position_ids} are not known here; there are: "
            f"{_names(generation_pb2.PositionIds.DESCRIPTOR)}"
        )
    return Prefill(
        pruning_from_proto(message.pruning) if message.HasField("pruning") else None,
        cast(PositionIds, name or "renumbered"),
    )


def sampling_to_proto(sampling: Sampling) -> generation_pb2.Sampling:
    return generation_pb2.Sampling(**_present(sampling))


def sampling_from_proto(message: generation_pb2.Sampling) -> Sampling:
    """A request's sampling; `Sampling.resolve` checks its ranges."""
    values = _values(message, Sampling)
    return Sampling(**{**values, "max_new_tokens": message.max_new_tokens or None})


def layout_to_proto(layout: Layout) -> "vision_tokens_pb2.Layout.ValueType":
    return vision_tokens_pb2.Layout.Value(f"LAYOUT_{layout.upper()}")


def layout_from_proto(number: int) -> Layout:
    """Convert a received layout; unspecified means spatial.

    Raises:
        UnknownFieldError: this version does not know the number.
    """
    name = _name(vision_tokens_pb2.Layout.DESCRIPTOR, number)
    if name is None:
        known = _names(vision_tokens_pb2.Layout.DESCRIPTOR)
        raise UnknownFieldError(f"layout {number} is not known here; there are: {known}")
    return cast(Layout, name or "spatial")


def data_type_to_proto(data_type: DataType) -> "tensor_pb2.DataType.ValueType":
    return tensor_pb2.DataType.Value(f"DATA_TYPE_{data_type.name}")


def data_type_from_proto(number: int, default: DataType | None = None) -> DataType:
    """A received data type; the default where it is unspecified.

    Raises:
        UnknownFieldError: a number that this version does not know, or none is specified and there is no default.
    """
    if number == 0 and default is not None:
        return default
    name = _name(tensor_pb2.DataType.DESCRIPTOR, number)
    if not name:
        raise UnknownFieldError(f"unknown data type {number}; there are: {_names(tensor_pb2.DataType.DESCRIPTOR)}")
    return DataType(name)


def _present(options: Any) -> dict[str, Any]:  # noqa: ANN401 - any of the options' dataclasses
    """The options that are set, by name: what is None stays absent in the message."""
    return {name: value for name, value in vars(options).items() if value is not None}


def _values(message: Message, options: type[Any]) -> dict[str, Any]:
    """The values of a message's fields by the names of the options; absent ones are left out.

    Containers are copied: a message's own cannot be pickled.
    """
    described = message.DESCRIPTOR.fields_by_name
    values: dict[str, Any] = {}
    for name in (field.name for field in dataclasses.fields(options)):
        if described[name].has_presence and not message.HasField(name):
            continue
        value = getattr(message, name)
        if isinstance(value, MutableMapping):
            value = dict(value)
        elif isinstance(value, MutableSequence):
            value = tuple(value)
        values[name] = value
    return values


def _name(enumeration: EnumDescriptor, number: int) -> str | None:
    """The option's name of a number: LAYOUT_SPATIAL is "spatial". Empty for 0; None for an unknown number."""
    if number == 0:
        return ""
    value = enumeration.values_by_number.get(number)
    return None if value is None else value.name.removeprefix(_prefix(enumeration)).lower()


def _names(enumeration: EnumDescriptor) -> str:
    prefix = _prefix(enumeration)
    return ", ".join(value.name.removeprefix(prefix).lower() for value in enumeration.values if value.number)


def _prefix(enumeration: EnumDescriptor) -> str:
    return enumeration.values_by_number[0].name.removesuffix(_UNSPECIFIED)
