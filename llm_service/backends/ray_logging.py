"""Keeps Ray's chatter out of this service's log; what matters of it comes back as errors."""

import logging


def quiet_ray() -> None:
    """Let through only Ray's errors, and not its side effect on grpc.aio. Doing it again changes nothing."""
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    log = logging.getLogger("asyncio")
    if not any(isinstance(existing, _SharedPollerFilter) for existing in log.filters):
        log.addFilter(_SharedPollerFilter())


class _SharedPollerFilter(logging.Filter):
    """Drops the report of a harmless race inside grpc.aio.

    All event loops of a process share one completion queue whose socket wakes them all; the loop that reads it second
    finds nothing. Ray Serve's handle has a loop of its own beside the gateway's, so it happens all the time.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not (isinstance(error, BlockingIOError) and "PollerCompletionQueue" in record.getMessage())
