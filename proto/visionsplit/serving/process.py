"""What a service asks of the operating system for its process: open files, and memory that is given back."""

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
_ENOUGH_OPEN_FILES = 10_240  # where the system names no limit; macOS refuses more
_FEW_LEFT = 0.1  # of the open files that are allowed
# Memory is given back once the unused part has grown by so much of the whole, and at least by so many bytes.
_GROWN = 0.1
_GROWN_BYTES = 32 * 2**20
_LONGEST_PAUSE = 64  # looks between two collections of a process that stays large
_PAGE_BYTES = resource.getpagesize()
_OPEN_FILES, _MEMORY = Path("/proc/self/fd"), Path("/proc/self/statm")


def raise_open_files_limit() -> int:
    """Raise the soft limit of open files, often 1024, to the hard one; returns the limit in force.

    Each connection takes a file. Programs that use `select` are why the soft limit is low; the services use none.
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
    """Inside, a log line warns when few open files are left, and memory that is free goes back to the system.

    Only Linux tells both; elsewhere nothing is watched.
    """
    # What was loaded at the start stays for good. Python would look through all of it, half a second for PyTorch and
    # transformers, each time that it looks for cycles, and therefore looks rarely.
    gc.collect()
    gc.freeze()
    # A thread that computes gives the interpreter's lock away with every operation of PyTorch, and gets it back from a
    # busy event loop only after this interval: with Python's 5 milliseconds an answer took seconds beside callers whose
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
        except OSError as error:  # no descriptor is left to read how much memory the process has
            _log.debug("free memory was not looked at: %s", error)


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
    """Gives back what the C library keeps of freed memory: after a burst of requests it can be gigabytes.

    Images of many megabytes are few objects, of which Python's collector takes no notice. So it is called here whenever
    the process has grown, and again after 2, 4, 8 ... seconds while the process stays larger than it once was: a
    request that was still running the first time may have become a cycle of garbage since.
    """

    def __init__(self) -> None:
        self._allocator = _Allocator.of_this_process()
        self._left = 0  # unused bytes after the last time
        self._least = self._collected = _resident_bytes()  # ever; after the last collection
        self._pause = self._looks = 1  # between collections; until the next one

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
        # In a thread: both calls walk through the allocator's lists, without Python's lock.
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
    """glibc's functions."""

    info: Callable[[], _MallocInfo]
    trim: Callable[[int], int]

    @classmethod
    def of_this_process(cls) -> "_Allocator | None":
        """None where the C library is another, or older than 2.33."""
        library = ctypes.CDLL(None)
        try:
            info, trim = library.mallinfo2, library.malloc_trim
        except AttributeError:
            return None
        info.restype = _MallocInfo
        return cls(info, trim)

    def give_back(self, left: int) -> int:
        """Give unused memory back if it has grown.

        Args:
            left: the result of the last call; 0 at first.

        Returns:
            The process's bytes that are not allocated, of which the last call, or this one, could give nothing back.
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
