"""One line for each call in a service's log: how it ended and how long it took, never what was in it."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from visionsplit.errors import VisionSplitError


@dataclass
class CallRecord:
    """What the line will say of a call that succeeds."""

    outcome: str = "done"


@contextmanager
def log_call(log: logging.Logger, request_id: str) -> Iterator[CallRecord]:
    """Log the end of the call that runs inside, whichever end it is."""
    started = time.monotonic()
    record = CallRecord()
    try:
        yield record
    except VisionSplitError as error:
        # An error's text may quote the caller; a line stays a line.
        record.outcome = f"failed, {type(error).__name__}: {' '.join(str(error).split())}"
        raise
    except asyncio.CancelledError:
        record.outcome = "given up by the caller"
        raise
    except BaseException as error:  # its text may hold anything; the traceback is logged where the call ends
        record.outcome = f"failed, {type(error).__name__}"
        raise
    finally:
        log.info("request %s after %.3f s: %s", request_id, time.monotonic() - started, record.outcome)
