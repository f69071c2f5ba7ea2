"""Keeps Ray's log lines out of this service's log; failures that matter reach the service as exceptions."""

import logging


def quiet_ray() -> None:
    """Let only Ray's errors through, and drop its side effect on grpc.aio. Calling it again changes nothing."""
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    log = logging.getLogger("asyncio")
    if not any(isinstance(existing, _SharedPollerFilter) for existing in log.filters):
        log.addFilter(_SharedPollerFilter())


class _SharedPollerFilter(logging.Filter):
    """Drops the log record of a harmless race inside grpc.aio.

    All event loops of a process share one completion queue, whose socket wakes all of them; the loop that reads the
    socket second finds it empty and logs a BlockingIOError. Ray Serve's handle runs an event loop beside the gateway's,
    so the race occurs constantly.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not (isinstance(error, BlockingIOError) and "PollerCompletionQueue" in record.getMessage())
