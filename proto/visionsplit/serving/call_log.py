"""Logs one line per call: how it ended and how long it took, without its content.

The prompt is included only if the operator enables it.
"""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from visionsplit.errors import VisionSplitError
from visionsplit.visible import shortened
from visionsplit.wire.grpc_status import status_of

MAX_PROMPT_CHARACTERS = 2000
_MAX_OUTCOME_CHARACTERS = 2000

_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


@dataclass
class CallRecord:
    """The parts of a call's log line that its handler sets."""

    outcome: str = "done"  # of a successful call
    status: str = "OK"
    fields: dict[str, str | int | float] = field(default_factory=dict)  # in addition to those that every line has
    prompt: str | None = None  # set only if prompts are logged


def current_request_id() -> str | None:
    """The id of the request in whose context this runs; None outside of a call."""
    return _request_id.get()


@contextmanager
def log_call(log: logging.Logger, request_id: str, method: str) -> Iterator[CallRecord]:
    """Log the end of the call that runs inside the context, whether it succeeds, fails or is cancelled.

    The log record's attribute `fields` holds the parts of the line by name, for structured formats.
    """
    started = time.monotonic()
    record = CallRecord()
    token = _request_id.set(request_id)
    try:
        yield record
    except VisionSplitError as error:
        # The text is shortened, because it may quote the caller.
        record.outcome = f"failed, {type(error).__name__}: {shortened(str(error), _MAX_OUTCOME_CHARACTERS)}"
        record.status = status_of(error).name
        record.fields["error"] = type(error).__name__
        raise
    except asyncio.CancelledError:
        record.outcome = "given up by the caller"
        record.status = "CANCELLED"
        raise
    except BaseException as error:  # its text may contain anything; the traceback is logged where the call ends
        record.outcome = f"failed, {type(error).__name__}"
        record.status = "INTERNAL"
        record.fields["error"] = type(error).__name__
        raise
    finally:
        _write(log, request_id, method, record, time.monotonic() - started)
        _request_id.reset(token)


def _write(log: logging.Logger, request_id: str, method: str, record: CallRecord, seconds: float) -> None:
    fields: dict[str, str | int | float] = {
        "request_id": request_id,
        "method": method,
        "status": record.status,
        "duration_seconds": round(seconds, 6),
        **record.fields,
    }
    outcome = record.outcome
    if record.prompt is not None:
        fields["prompt"] = record.prompt[:MAX_PROMPT_CHARACTERS]
        outcome += f"; prompt {fields['prompt']!r}"
    log.info("request %s after %.3f s: %s", request_id, seconds, outcome, extra={"fields": fields})
