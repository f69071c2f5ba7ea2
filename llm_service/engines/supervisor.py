"""Keeps an engine's decoding core running: a thread or a process that may fail at any time."""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from visionsplit.errors import InternalError, UnavailableError, VisionSplitError

_log = logging.getLogger(__name__)
_FIRST_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 30.0
STEP_FAILED = "a decoding step failed; the service's log has the details"


class Core(Protocol):
    """What decodes."""

    @property
    def alive(self) -> bool:
        """Whether it takes requests: neither stopped nor failed."""

    def wait(self) -> object:
        """Block until decoding has ended, by a failure or by `stop`; return the reason for the log."""

    def stop(self) -> None:
        """End decoding and release all memory. Blocks; may be called again, and from any thread."""


CoreT = TypeVar("CoreT", bound=Core)


class Supervisor(Generic[CoreT]):
    """Starts a core, waits for its end, and replaces it with growing delays unless the engine is being stopped."""

    def __init__(
        self,
        start: Callable[[], CoreT],
        *,
        on_end: Callable[[CoreT | None, VisionSplitError], None],
        free_memory: Callable[[], object],
    ) -> None:
        """All of these are called on the supervisor's thread, `start` the first time on that of `start`.

        Args:
            start: starts a core; blocks.
            on_end: ends all requests with an error, because the core has ended or, if it is None, could not be started.
            free_memory: called before a new core is started.
        """
        self._start_core = start
        self._on_end = on_end
        self._free_memory = free_memory
        self._running: CoreT | None = None  # None before the start and while a core is being replaced
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._broken = False
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> CoreT | None:
        """The core; None while there is none."""
        return self._running

    @property
    def healthy(self) -> bool:
        return not (self._broken or self._stopping.is_set())

    def error(self) -> VisionSplitError:
        """The error of a request whose core has ended."""
        if self._stopping.is_set():
            return UnavailableError("the service is stopping")
        return InternalError(STEP_FAILED)

    def start(self) -> None:
        self._start()
        self._thread = threading.Thread(target=self._supervise, name="engine-supervisor")
        self._thread.start()

    def stop(self) -> None:
        """Stop the core; its requests end with UnavailableError. Blocks."""
        with self._lock:
            self._stopping.set()
            running = self._running
        if running is not None:
            running.stop()
        if self._thread is not None:
            self._thread.join()

    async def get(self) -> CoreT:
        """The core; waits while it is being replaced.

        Raises:
            UnavailableError: the engine is stopping, or its core could not be started again.
        """
        while self.healthy:
            # A core that has failed is there until the supervisor knows; a request that comes meanwhile waits too.
            if (running := self._running) is not None and running.alive:
                return running
            await asyncio.sleep(0.01)
        raise UnavailableError("the decoding engine is not running")

    def _start(self) -> None:
        running = self._start_core()
        with self._lock:
            self._running, self._broken = running, False
            stopped_meanwhile = self._stopping.is_set()
        # A `stop` during the start found no core to stop, so it is stopped here. The lock orders the two: either
        # `stop` sees the core, or this sees the flag.
        if stopped_meanwhile:
            running.stop()

    def _supervise(self) -> None:
        while (running := self._running) is not None:
            reason = running.wait()
            with self._lock:
                self._running = None
            self._on_end(running, self.error())
            if self._stopping.is_set():
                return
            _log.error("decoding failed (%s); restarting", reason)
            running.stop()
            del running  # with its cache, so that the next core finds the memory free
            self._replace()

    def _replace(self) -> None:
        """Start a new core, with growing delays, until one starts or the engine is stopped."""
        delay = _FIRST_RETRY_SECONDS
        while not self._stopping.is_set():
            self._free_memory()
            try:
                self._start()
                return
            except Exception:
                _log.exception("the decoding engine could not be started again; the next attempt is in %g s", delay)
                self._broken = True
                self._on_end(None, UnavailableError("the decoding engine is not running"))
            self._stopping.wait(delay)
            delay = min(2 * delay, _LONGEST_RETRY_SECONDS)
