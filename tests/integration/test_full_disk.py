"""An encoder whose cache is on a full disk that later has room again."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from visionsplit_cli.top.samples import Samples, read_samples
from visionsplit_client import AsyncClient

from benchmarks.load.system import Service, free_port
from tests.noise import noise_image

MOUNT = 'mount -t tmpfs -o size=64k visionsplit "$1" && shift && exec "$@"'
IMAGES = [noise_image(112, 112, seed) for seed in range(4)]


@dataclass
class OnSmallDisk(Service):
    """A service that sees a file system of 64 KiB at `folder`, as no other process does."""

    folder: Path = Path()

    def start(self) -> None:
        command = [sys.executable, "-m", self.module, "--listen", self.address, "--device", "cpu", *self.arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "-m", "sh", "-c", MOUNT, "sh", str(self.folder), *command], stdout=log, stderr=log
            )

    @property
    def disk(self) -> Path:
        """That file system, from outside."""
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/root{self.folder}")


@pytest.fixture(autouse=True)
def _mounts(tmp_path: Path) -> None:
    probe = ["unshare", "-m", "sh", "-c", MOUNT, "sh", str(tmp_path), "true"]
    if os.geteuid() != 0 or shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("a private mount needs root and unshare")


@asynccontextmanager
async def encoder(model: Path, folder: Path) -> AsyncIterator[tuple[OnSmallDisk, str]]:
    """The process, and the address of its metrics."""
    metrics = f"127.0.0.1:{free_port()}"
    arguments = ["--model", str(model), "--cache-bytes", "0", "--cache-dir", str(folder), "--metrics", metrics]
    service = OnSmallDisk("encoder_service", arguments, f"127.0.0.1:{free_port()}", folder=folder)
    service.start()
    try:
        await asyncio.to_thread(service.wait_until_serving)
        yield service, metrics
    finally:
        await asyncio.to_thread(service.stop)


async def counted(metrics: str, name: str, value: float) -> Samples:
    """Writing goes on behind the calls."""
    async with asyncio.timeout(20):
        while True:
            page = await asyncio.to_thread(read_samples, metrics, "encoder")
            if page.total(name, cache="disk") >= value:
                return page
            await asyncio.sleep(0.05)


async def test_a_full_disk_costs_nothing_but_hits(random_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    async with (
        encoder(random_checkpoints["llama"], tmp_path) as (service, metrics),
        AsyncClient(service.address) as client,
    ):

        async def encode_all() -> tuple[list[bytes], set[str]]:
            encoded = [await client.encode(image) for image in IMAGES]
            return [one.tokens.features.data for one in encoded], {one.summary.cache for one in encoded}

        ballast = service.disk / "ballast"
        with pytest.raises(OSError, match="No space left"):
            ballast.write_bytes(bytes(2**20))
        right, caches = await encode_all()
        assert caches == {"miss"}
        page = await counted(metrics, "cache_failures_total", len(IMAGES))
        assert page.total("cache_entries", cache="disk") == 0
        assert await encode_all() == (right, {"miss"})
        log = service.log.read_text()
        assert log.count("No space left on device") == 1  # not a line for each image
        assert "Traceback" not in log

        ballast.unlink()
        assert await encode_all() == (right, {"miss"})
        await counted(metrics, "cache_entries", len(IMAGES))
        assert await encode_all() == (right, {"disk"})
        assert not list(service.disk.glob("*.part"))
