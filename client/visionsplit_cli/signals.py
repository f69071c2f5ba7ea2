"""SIGTERM as an exception."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


@contextmanager
def ended_by_sigterm(error: BaseException) -> Iterator[None]:
    """SIGTERM raises `error` inside, as Ctrl-C raises KeyboardInterrupt, so that what was begun is ended in order."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end must not be cut off by a second one
        raise error

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
