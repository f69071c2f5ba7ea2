"""A process's open files and memory, as the operating system counts them."""

import asyncio
import logging
import resource
import subprocess
import sys

import pytest
from visionsplit.serving import process

FREED = """
from visionsplit.serving.process import _Allocator, _resident_bytes
allocator = _Allocator.of_this_process()
left = allocator.give_back(0)
before = _resident_bytes()
blocks = [bytearray(1 << 14) for _ in range(20_000)]
for block in blocks:
    block[::4096] = bytes(4)
held = _resident_bytes()
left = allocator.give_back(left)
while_held = _resident_bytes()
kept = blocks[-1]  # at the end, so that the C library alone gives nothing back
del block, blocks
freed = _resident_bytes()
left = allocator.give_back(left)
print(before, held, while_held, freed, _resident_bytes())
"""

# Prints whether the object was found, and whether what existed at the start is out of the collector's sight inside and
# afterwards.
CYCLE = """
import asyncio, gc, weakref
from visionsplit.serving.process import process_watched

class Request:
    def __init__(self):
        self.data = b"x" * 2**26
        self.failure = self

async def main():
    async with process_watched():
        await asyncio.sleep(0.1)
        running = Request()
        request = weakref.ref(running)
        await asyncio.sleep(2.5)  # while the process is looked at for the first time
        del running
        async with asyncio.timeout(10):
            while request() is not None:
                await asyncio.sleep(0.1)
        inside = gc.get_freeze_count() > 1000
    print("found", inside, gc.get_freeze_count() > 0)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_freed_memory_goes_back_to_the_system() -> None:
    printed = subprocess.run([sys.executable, "-c", FREED], check=True, capture_output=True, text=True).stdout
    before, held, while_held, freed, after = map(int, printed.split())
    assert held - before > 250e6
    assert while_held > 0.9 * held
    assert freed > 0.9 * held  # else this test shows nothing
    assert after - before < 0.1 * (held - before)


@pytest.mark.skipif(sys.platform != "linux", reason="watched on Linux only")
def test_a_large_object_that_becomes_a_cycle_is_found_soon() -> None:
    printed = subprocess.run([sys.executable, "-c", CYCLE], check=True, capture_output=True, text=True).stdout
    assert printed == "found True False\n"


def test_a_service_raises_the_limit_of_open_files() -> None:
    code = "from visionsplit.serving.process import *; print(raise_open_files_limit())"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    command = ["bash", "-c", f'ulimit -S -n 200; exec "{sys.executable}" -c "{code}"']
    assert int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) == hard


def test_where_open_files_have_no_limit_a_finite_one_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = (256, resource.RLIM_INFINITY)

    def setrlimit(_: int, asked: tuple[int, int]) -> None:
        nonlocal limits
        if asked[0] == resource.RLIM_INFINITY or asked[0] > 10_240:  # as macOS does
            raise ValueError("current limit exceeds maximum limit")
        limits = asked

    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    assert process.raise_open_files_limit() == 10_240
    limits = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert process.raise_open_files_limit() == resource.RLIM_INFINITY


@pytest.mark.skipif(sys.platform != "linux", reason="watched on Linux only")
async def test_the_watch_goes_on_when_no_open_file_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "_WATCH_SECONDS", 0.01)
    looks: list[int] = []
    look = process._FreeMemory.look

    async def counted(memory: process._FreeMemory) -> None:
        looks.append(1)
        await look(memory)

    monkeypatch.setattr(process._FreeMemory, "look", counted)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with process.process_watched():
        await asyncio.sleep(0.05)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            looks.clear()
            async with asyncio.timeout(5):
                while len(looks) < 5:  # noqa: ASYNC110 - what another task does
                    await asyncio.sleep(0.01)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "open files are left" in caplog.text


def test_few_open_files_are_logged_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    files = process._OpenFiles()
    for limit in (100_000, 3, 3, 100_000, 3):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        files.look()
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "open files are left" in caplog.text
