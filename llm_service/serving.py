"""A service that runs until it is told to stop."""

import asyncio
import signal
import sys
from collections.abc import Callable

from visionsplit.errors import VisionSplitError
from visionsplit.serving.process import process_watched, raise_open_files_limit

from llm_service.config import LlmConfig
from llm_service.options import PROGRAM
from llm_service.server import LlmServer


async def serve(config: LlmConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    told = asyncio.Event()
    _on_signals(told.set)
    server = LlmServer(config)
    await server.start()
    # Again: Ray has installed its handlers meanwhile.
    _on_signals(told.set)
    async with process_watched():
        await told.wait()
        await server.stop(config.grace)


def _on_signals(callback: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, callback)


def run(config: LlmConfig) -> int:
    """Serve; the process's exit status."""
    raise_open_files_limit()
    try:
        asyncio.run(serve(config))
    except VisionSplitError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    return 0
