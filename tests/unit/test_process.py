"""Open files and memory of a process, as the system counts them."""

import logging
import resource
import subprocess
import sys

import pytest
from visionsplit import process

FREED = """
from visionsplit.process import _Allocator, _resident_bytes
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


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_freed_memory_goes_back_to_the_system() -> None:
    printed = subprocess.run([sys.executable, "-c", FREED], check=True, capture_output=True, text=True).stdout
    before, held, while_held, freed, after = map(int, printed.split())
    assert held - before > 250e6
    assert while_held > 0.9 * held
    assert freed > 0.9 * held  # else this test shows nothing
    assert after - before < 0.1 * (held - before)


def test_a_service_raises_the_limit_of_open_files() -> None:
    code = "from visionsplit.process import *; print(raise_open_files_limit())"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    command = ["bash", "-c", f'ulimit -S -n 200; exec "{sys.executable}" -c "{code}"']
    assert int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) == hard


def test_few_open_files_are_logged_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    files = process._OpenFiles()
    for limit in (100_000, 3, 3, 100_000, 3):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        files.look()
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "open files are left" in caplog.text
