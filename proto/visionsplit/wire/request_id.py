"""The id that follows a request through every service's log."""

import re
import uuid
from typing import Any

import grpc.aio

REQUEST_ID_KEY = "x-request-id"  # metadata
# Of a caller's own id: what needs no escape in any log, and cannot make a line longer by much.
_ACCEPTED = re.compile(r"[A-Za-z0-9._:/-]{1,128}")


def new_request_id() -> str:
    return uuid.uuid4().hex


def request_id_of(context: "grpc.aio.ServicerContext[Any, Any]") -> str:
    """The id that the caller gave, or a new one: where it gave none, or one that is no id."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and _ACCEPTED.fullmatch(value):
            return value
    return new_request_id()
