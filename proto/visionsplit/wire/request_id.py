"""The id that follows a request through every service's log."""

import uuid
from typing import Any

import grpc.aio

REQUEST_ID_KEY = "x-request-id"  # metadata
_MAX_LENGTH = 128  # a caller's own id is cut to this, so that it cannot flood a log


def new_request_id() -> str:
    return uuid.uuid4().hex


def request_id_of(context: "grpc.aio.ServicerContext[Any, Any]") -> str:
    """The id that the caller gave, or a new one."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY:
            return str(value)[:_MAX_LENGTH]
    return new_request_id()
