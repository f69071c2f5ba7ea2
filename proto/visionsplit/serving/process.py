"""Tunes a service's process: the limit of open files, garbage collection, and returning freed memory."""

import asyncio
import ctypes
import gc
import logging
import os
import resource
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger(__name__)

_WATCH_SECONDS = 1.0
_SWITCH_SECONDS = 0.0001
_ENOUGH_OPEN_FILES = 10_240  # used if the system sets no limit; macOS refuses more
_FEW_LEFT = 0.1  # share of the permitted open files
# Freed memory is returned once it has grown by this share of the resident memory, and at least by this many bytes.
_GROWN = 0.1
_GROWN_BYTES = 32 * 2**20
_LONGEST_PAUSE = 64  # looks between two garbage collections of a process that stays large
_PAGE_BYTES = resource.getpagesize()
_OPEN_FILES, _MEMORY = Path("/proc/self/fd"), Path("/proc/self/statm")


def raise_open_files_limit() -> int:
    """Raise the soft limit of open files, often 1024, to the hard limit; return the limit in force.

    Each connection takes a file. The soft limit is low only for programs that use `select`, which the services do not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else _ENOUGH_OPEN_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        _log.warning("the limit of %d open files cannot be raised to %d: %s", soft, wanted, error)
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@asynccontextmanager
async def process_watched() -> AsyncIterator[None]:
    """While entered, warn when few open files are left, and return freed memory to the system.

    Only Linux reports both; on other systems nothing is watched.
    """
    # Objects loaded at the start are permanent. A full collection would traverse all of them, half a second for PyTorch
    # and transformers; and since Python delays full collections in proportion to the number of long-lived objects, they
    # would also be rare. Frozen objects are neither traversed nor counted.
    gc.collect()
    gc.freeze()
    # A computing thread releases the interpreter lock at every PyTorch operation, and gets it back from a busy event
    # loop only after this interval. With Python's default of 5 milliseconds an answer took seconds beside callers whose
    # requests were being refused.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    watch = asyncio.create_task(_watch()) if sys.platform == "linux" else None
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.unfreeze()
        if watch is not None:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)


async def _watch() -> None:
    files, memory = _OpenFiles(), _FreeMemory()
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        files.look()
        try:
            await memory.look()
        except OSError as error:  # no file descriptor is free for reading the process's memory
            _log.debug("free memory was not looked at: %s", error)


class _OpenFiles:
    """Warns once each time that few open files are left."""

    def __init__(self) -> None:
        self._few = False

    def look(self) -> None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit == resource.RLIM_INFINITY:
            return
        try:
            with os.scandir(_OPEN_FILES) as descriptors:
                left = limit - sum(1 for _ in descriptors)
        except OSError:  # listing the folder itself takes a descriptor
            left = 0
        few = left < _FEW_LEFT * limit
        if few and not self._few:
            _log.warning("%d of %d open files are left; new connections may be refused", left, limit)
        self._few = few


class _FreeMemory:
    """Returns memory that the C library keeps after it was freed: after a burst of requests it can be gigabytes.

    Images are large but few objects, so Python's garbage collector does not start because of them. It is called here
    whenever the process has grown, and again after 2, 4, 8 ... seconds while the process stays larger than it once was:
    a request that was still running at the first collection may have become unreachable since.
    """

    def __init__(self) -> None:
        self._allocator = _Allocator.of_this_process()
        self._left = 0  # unused bytes after the last call of `give_back`
        self._least = self._collected = _resident_bytes()  # the minimum ever; the minimum since the last collection
        self._pause = self._looks = 1  # looks between collections; looks until the next one

    async def look(self) -> None:
        resident = _resident_bytes()
        self._least = min(self._least, resident)
        self._collected = min(self._collected, resident)
        if resident > self._collected + _GROWN_BYTES:
            self._pause = self._looks = 1
        if resident > self._least + _GROWN_BYTES:
            self._looks -= 1
            if not self._looks:
                gc.collect()
                self._collected = _resident_bytes()
                self._pause = self._looks = min(2 * self._pause, _LONGEST_PAUSE)
        # In a thread: both calls traverse the allocator's lists without holding the interpreter lock.
        if self._allocator is not None:
            self._left = await asyncio.to_thread(self._allocator.give_back, self._left)


class _MallocInfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


@dataclass(frozen=True)
class _Allocator:
    """The functions of glibc's allocator."""

    info: Callable[[], _MallocInfo]
    trim: Callable[[int], int]

    @classmethod
    def of_this_process(cls) -> "_Allocator | None":
        """The functions, or None if the C library is not glibc 2.33 or newer."""
        library = ctypes.CDLL(None)
        try:
            info, trim = library.mallinfo2, library.malloc_trim
        except AttributeError:
            return None
        info.restype = _MallocInfo
        return cls(info, trim)

    def give_back(self, left: int) -> int:
        """Return unused memory to the system if it has grown.

        Args:
            left: the result of the previous call; 0 at first.

        Returns:
            The process's bytes that are not allocated and that the latest trimming could not return.
        """
        unused = self._unused()
        if unused < left + max(_GROWN * _resident_bytes(), _GROWN_BYTES):
            return min(left, unused)
        self.trim(0)
        return self._unused()

    def _unused(self) -> int:
        info = self.info()
        allocated: int = info.uordblks + info.hblkhd
        return max(_resident_bytes() - allocated, 0)


def _resident_bytes() -> int:
    return int(_MEMORY.read_text().split()[1]) * _PAGE_BYTES
