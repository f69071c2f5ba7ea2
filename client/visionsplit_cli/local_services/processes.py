"""A service as a child process: started in a group of its own, watched, and never left behind."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_POLL_SECONDS = 0.05


@dataclass
class Service:
    """One service. Its process group is its own, so that the terminal's Ctrl-C reaches only us, who stop in order."""

    name: str  # "encoder service"
    address: str
    command: Sequence[str]
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start the process. No other thread of ours may run yet: the child runs Python code before its program."""
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent(),  # noqa: PLW1509 - no other thread runs yet
        )

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return None if self._process is None else self._process.poll()

    def stop(self, *, grace: float, hurry: Callable[[], bool]) -> None:
        """SIGTERM, time to drain, then SIGKILL for whatever is left of the group.

        Args:
            grace: seconds to drain.
            hurry: asked meanwhile; true ends the waiting.
        """
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
        deadline = time.monotonic() + grace
        while process.poll() is None and time.monotonic() < deadline and not hurry():
            time.sleep(_POLL_SECONDS)
        # The group outlives its leader if that left children behind.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def describe_exit(code: int) -> str:
    """Words for an exit code as subprocess gives it."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def _die_with_parent() -> Callable[[], None] | None:
    """On Linux the kernel tells a child when its parent dies, however it dies. Elsewhere only a clean exit does."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before the fork, where little may be done
    parent = os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel was told
            os._exit(1)

    return in_child
