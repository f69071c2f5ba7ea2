"""The services as separate processes, which can be killed and restarted on the same ports."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from visionsplit_client import Client, HealthStatus

START_SECONDS = 120.0
# Images never repeat here. A small cache is full at once, so that memory that still grows is noticed.
CACHE = ["--cache-bytes", str(16 * 2**20)]


# Below the ports that systems give to outgoing connections, 32768 to 60999 on Linux. One of those could be taken by any
# connection before the service that it is meant for listens there.
_PORTS = range(10_000, 32_000)


def free_port() -> int:
    """A port of the loopback address on which nothing listens."""
    while True:
        # Not from the module's generator, whose seed a test may have set: parallel tests would get the same port.
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _new_log() -> Path:
    file, name = tempfile.mkstemp(prefix="visionsplit-", suffix=".log")
    os.close(file)
    return Path(name)


@dataclass(eq=False)
class Service:
    """One service process. It logs to a file whose end is shown on failures, and which is deleted with this object."""

    module: str
    arguments: list[str]
    address: str
    process: subprocess.Popen[bytes] | None = None
    log: Path = field(default_factory=_new_log)
    words: tuple[str, ...] = ()  # what the module is told before its options
    device: str = "cpu"
    python: str = sys.executable
    environment: Mapping[str, str] = field(default_factory=lambda: {"OMP_NUM_THREADS": "1"})  # beside this process's
    start_seconds: float = START_SECONDS  # until it must serve

    def __post_init__(self) -> None:
        weakref.finalize(self, self.log.unlink, missing_ok=True)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, env={**os.environ, **self.environment}
            )

    def command(self) -> list[str]:
        options = ["--listen", self.address, "--device", self.device, *self.arguments]
        return [self.python, "-m", self.module, *self.words, *options]

    def is_serving(self) -> bool:
        with Client(self.address) as client:
            return client.health(timeout=1)[self.address] is HealthStatus.SERVING

    def wait_until_serving(self) -> float:
        """Wait for a service that was started; return the seconds until it serves."""
        started = time.monotonic()
        while not self.is_serving():
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"{self.module} ended: {self.log.read_text()[-2000:]}")
            if time.monotonic() - started > self.start_seconds:
                raise RuntimeError(f"{self.module} does not serve: {self.log.read_text()[-2000:]}")
            time.sleep(0.05)
        return time.monotonic() - started

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; return the exit status."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children(recursive=True) if number == signal.SIGKILL else []
        self.process.send_signal(number)
        status = self.process.wait(timeout=60)
        for child in children:  # a killed gateway leaves the cluster that it started
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, timeout=20)
        return status

    def cpu_seconds(self) -> float:
        """Processor time of the process itself so far."""
        assert self.process is not None
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def memory_mib(self) -> float:
        """Resident memory of the process itself."""
        assert self.process is not None
        return float(psutil.Process(self.process.pid).memory_info().rss) / 2**20


@dataclass
class System:
    """An LLM service with encoders in front of it."""

    llm: Service
    encoders: list[Service]

    @classmethod
    def of(cls, model: str, *, encoders: int, replicas: int = 0, ray_address: str = "local") -> "System":
        """`replicas` is their number on Ray; 0 runs one in the gateway's process."""
        llm = f"127.0.0.1:{free_port()}"
        ray = ["--backend", "ray", "--replicas", str(replicas), "--ray-address", ray_address] if replicas else []
        return cls(
            Service("llm_service", ["--model", model, *ray], llm),
            [
                Service("encoder_service", ["--model", model, "--llm", llm, *CACHE], f"127.0.0.1:{free_port()}")
                for _ in range(encoders)
            ],
        )

    @property
    def services(self) -> list[Service]:
        return [self.llm, *self.encoders]

    def __enter__(self) -> "System":
        for service in self.services:
            service.start()
        try:
            for service in self.services:
                service.wait_until_serving()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for service in reversed(self.services):
            if service.process is not None and service.process.poll() is None:
                service.stop()
