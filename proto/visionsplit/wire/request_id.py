"""The id that identifies a request in the logs of all services."""

import re
import uuid
from typing import Any

import grpc.aio

REQUEST_ID_KEY = "x-request-id"  # metadata key
# The ids accepted from callers: their characters need no escaping in any log, and their length is limited.
_ACCEPTED = re.compile(r"[A-Za-z0-9._:/-]{1,128}")


def new_request_id() -> str:
    return uuid.uuid4().hex


def request_id_of(context: "grpc.aio.ServicerContext[Any, Any]") -> str:
    """The caller's id, or a new one if the caller gave none or an invalid one."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and _ACCEPTED.fullmatch(value):
            return value
    return new_request_id()
