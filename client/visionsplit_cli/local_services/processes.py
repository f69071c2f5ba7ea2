"""A service as a child process, with its own process group. It ends when this process does."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_NAMES = {"encoder_service": "encoder service", "llm_service": "LLM service", "visionsplit_ray": "LLM service"}
_POLL_SECONDS = 0.05
# Asks Linux for a SIGTERM at the death of our process, however it dies (PR_SET_PDEATHSIG is 1 in linux/prctl.h), and
# then becomes the service. A function that `subprocess` runs in the child could do the same, but not safely once this
# process has threads, and gRPC starts some.
_LAUNCHER = f"""
import ctypes, os, sys
if sys.platform.startswith("linux"):
    ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)}, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):  # our process died before the kernel was asked
        sys.exit(1)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@dataclass
class Service:
    """One service. It has its own process group, so that the terminal's Ctrl-C reaches only this process.

    This process then stops its services in order.
    """

    module: str  # "encoder_service", "llm_service", or "visionsplit_ray" for both
    address: str  # HOST:PORT to listen on
    options: Sequence[str]  # further options of its command line
    stdout: int | None = None  # a file descriptor; None: ours
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        """What messages call it."""
        return _NAMES[self.module]

    def start(self) -> None:
        # -P: a folder here with the module's name is not the service.
        command = ["-P", "-m", self.module, "--listen", self.address, *self.options]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=self.stdout,
            start_new_session=True,
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
