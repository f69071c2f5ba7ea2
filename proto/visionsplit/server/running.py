"""A service as a process: it serves until a signal tells it to stop."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable

from visionsplit.errors import VisionSplitError
from visionsplit.server.config import ServiceConfig
from visionsplit.server.server import ServiceServer
from visionsplit.serving.process import process_watched, raise_open_files_limit
from visionsplit.telemetry.logs import configure_logging

# How long a service that is stopped while it starts may take to release what it holds, such as replicas on a Ray
# cluster.
_CLEANING_SECONDS = 10.0


def run(name: str, config: ServiceConfig, make: Callable[[], ServiceServer]) -> int:
    """Serve until SIGTERM or SIGINT; the process's exit status.

    Args:
        name: of the service, "encoder" or "llm".
        config: its settings.
        make: the server; called on the event loop.
    """
    telemetry = config.telemetry
    loggers = (f"{name}_service", "visionsplit")
    configure_logging(name, level=telemetry.log_level, form=telemetry.log_format, loggers=loggers)
    log = logging.getLogger(loggers[0])
    raise_open_files_limit()
    try:
        asyncio.run(_serve(make, config.grace_seconds, log))
    except VisionSplitError as error:
        log.error("cannot serve: %s", error)  # noqa: TRY400 - the message says what is wrong, a traceback would not
        return 1
    return 0


async def _serve(make: Callable[[], ServiceServer], grace_seconds: float, log: logging.Logger) -> None:
    stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    _handle_signals(stopped)
    server = make()
    starting = asyncio.ensure_future(server.start())
    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        log.info("told to stop while starting")
        starting.cancel()
        await asyncio.wait({starting}, timeout=_CLEANING_SECONDS)
        # A thread that reads a checkpoint cannot be stopped, and Python would wait for it. No call is inside yet.
        logging.shutdown()
        os._exit(128 + stopped.result())
    await starting
    _handle_signals(
        stopped
    )  # again: a library that was loaded meanwhile, Ray for example, may have put others in place
    async with process_watched():
        await stopped
        await server.stop(grace_seconds)


def _handle_signals(stopped: "asyncio.Future[int]") -> None:
    """Set the future to the number of the first signal that asks the process to stop."""

    def stop(number: int) -> None:
        if not stopped.done():
            stopped.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
