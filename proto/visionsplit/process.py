"""What a service asks of the operating system for its process: open files, and memory that is given back."""

import asyncio
import ctypes
import logging
import os
import resource
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

_log = logging.getLogger(__name__)

_WATCH_SECONDS = 1.0
_FEW_LEFT = 0.1  # of the open files that are allowed
_TRIM_PAUSE_SECONDS = 5.0
# Memory is given back when the process has so much more than after the last time.
_GROWN = 1.1
_GROWN_BYTES = 16 * 2**20
_PAGE_BYTES = resource.getpagesize()
_OPEN_FILES, _MEMORY = Path("/proc/self/fd"), Path("/proc/self/statm")


def raise_open_files_limit() -> int:
    """Raise the soft limit of open files, often 1024, to the hard one; returns the limit in force.

    Each connection takes a file. Programs that use `select` are why the soft limit is low; the services use none.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # macOS refuses more than another limit of its own
        _log.warning("the limit of %d open files cannot be raised to %d: %s", soft, hard, error)
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@asynccontextmanager
async def process_watched() -> AsyncIterator[None]:
    """Inside, a log line warns when few open files are left, and memory that is free goes back to the system.

    Only Linux tells both; elsewhere nothing is watched.
    """
    if sys.platform != "linux":
        yield
        return
    watch = asyncio.create_task(_watch())
    try:
        yield
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


async def _watch() -> None:
    files, memory = _OpenFiles(), _FreeMemory()
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        files.look()
        await memory.look()


class _OpenFiles:
    """Warns once each time that few are left."""

    def __init__(self) -> None:
        self._few = False

    def look(self) -> None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit == resource.RLIM_INFINITY:
            return
        try:
            with os.scandir(_OPEN_FILES) as descriptors:
                left = limit - sum(1 for _ in descriptors)
        except OSError:  # the folder itself takes a descriptor
            left = 0
        few = left < _FEW_LEFT * limit
        if few and not self._few:
            _log.warning("%d of %d open files are left; new connections may be refused", left, limit)
        self._few = few


class _FreeMemory:
    """Gives back what the C library keeps of freed memory: after a burst of requests it can be gigabytes."""

    def __init__(self) -> None:
        self._trim = _malloc_trim()
        self._left = 0  # bytes that the process had after the last time
        self._before = 0  # at the last look
        self._pause = 0.0

    async def look(self) -> None:
        self._pause -= _WATCH_SECONDS
        now = _resident_bytes()
        growing, self._before = now > self._before * 1.02, now
        if self._trim is None or growing or self._pause > 0 or now < self._left * _GROWN + _GROWN_BYTES:
            return
        await asyncio.to_thread(self._trim, 0)
        self._left, self._pause = _resident_bytes(), _TRIM_PAUSE_SECONDS


def _resident_bytes() -> int:
    return int(_MEMORY.read_text().split()[1]) * _PAGE_BYTES


def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's function; None where the C library is another."""
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except AttributeError:
        return None
    return trim
