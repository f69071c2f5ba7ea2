"""Watches a contestant's processes while a part is measured. Linux only."""

import threading
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

_SECONDS = 2.0  # between two looks at the memory: adding up a process's pages takes some milliseconds
_MIB = 2**20


def processes_below(roots: Iterable[int]) -> list[psutil.Process]:
    """The processes with these ids and all that they started."""
    found: list[psutil.Process] = []
    for pid in roots:
        try:
            root = psutil.Process(pid)
            found += [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return found


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Processor time of these processes so far; those that have ended count as none."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def loopback_bytes() -> int:
    """Bytes that this machine's loopback interface has carried so far, headers included."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    fields = next(line for line in lines if line.strip().startswith("lo:")).partition(":")[2].split()
    return int(fields[0])


class Watch:
    """A context manager: afterwards the memory of each process when all together took most, and what they used."""

    def __init__(self, roots: Iterable[int]) -> None:
        self._roots = tuple(roots)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="memory", daemon=True)
        self.memory_mib: dict[str, float] = {}  # PSS: pages that several processes share are divided among them
        self.server_cpu_seconds = 0.0
        self.caller_cpu_seconds = 0.0
        self.other_cpu_seconds = 0.0  # of all other programs on this machine
        self.loopback_bytes = 0
        self.seconds = 0.0

    def __enter__(self) -> "Watch":
        self._began = (*self._cpu_seconds(), loopback_bytes())
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._started
        *began, loopback = self._began
        server, caller, everything = (now - then for now, then in zip(self._cpu_seconds(), began, strict=True))
        self.server_cpu_seconds, self.caller_cpu_seconds = server, caller
        self.other_cpu_seconds = max(everything - server - caller, 0.0)
        self.loopback_bytes = loopback_bytes() - loopback
        self._stop.set()
        self._thread.join()

    def _cpu_seconds(self) -> tuple[float, float, float]:
        """Processor time so far of the contestant, of the callers and of this whole machine."""
        machine = psutil.cpu_times()
        everything = machine.user + machine.nice + machine.system + machine.irq + machine.softirq
        return cpu_seconds(processes_below(self._roots)), time.process_time(), everything

    def _look(self) -> None:
        while True:
            memory = _memory(processes_below(self._roots))
            if sum(memory.values()) > sum(self.memory_mib.values()):
                self.memory_mib = memory
            if self._stop.wait(_SECONDS):
                return


def _memory(processes: Iterable[psutil.Process]) -> dict[str, float]:
    """PSS in MiB by process; equal names get numbers."""
    memory: dict[str, float] = {}
    for process in processes:
        try:
            name, taken = _name(process), process.memory_full_info().pss / _MIB
        except psutil.NoSuchProcess:
            continue
        number = sum(other.partition(" ")[0] == name for other in memory)
        memory[f"{name} {number + 1}" if number else name] = taken
    return memory


def _name(process: psutil.Process) -> str:
    """The module that a process runs, or the name that it has given itself."""
    words: list[str] = process.cmdline()
    if "-m" in words[:3]:
        return words[words.index("-m") + 1]
    return Path(words[0]).name if words else str(process.name())
