"""Checks on whole messages."""

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from visionsplit.errors import UnknownFieldError


def refuse_unknown_fields(message: Message) -> None:
    """Refuse a message with fields this version does not know, at any depth.

    protobuf would drop them in silence, and the caller would get an answer to another question.

    Raises:
        UnknownFieldError: names the first such field by its message and number.
    """
    unknown = UnknownFieldSet(message)
    if len(unknown):
        raise UnknownFieldError(
            f"field {unknown[0].field_number} of {message.DESCRIPTOR.full_name} is not known here; "
            "the client may be newer than this server"
        )
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for child in value if field.is_repeated else (value,):
            refuse_unknown_fields(child)
