"""The tool where its output is closed, or not read."""

import os
import subprocess
import sys

import pytest

TOOL = f"{sys.executable} -c 'import sys, visionsplit_cli as c; sys.exit(c.main())'"


def shell(command: str) -> subprocess.CompletedProcess:
    # Buffered, as in a user's shell: what is left is written at the very end.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=120, env=environment
    )


@pytest.fixture
def info(where):
    return f"{TOOL} info {' '.join(where)}"


def test_closed_output_is_no_failure(info):
    done = shell(f"{info} >&-")
    assert (done.returncode, done.stderr) == (0, "")


def test_closed_errors_are_no_failure():
    assert shell(f"{TOOL} info --encoder nonsense 2>&-").returncode == 2


@pytest.mark.parametrize("command", ["info", "help"])
def test_a_reader_that_left_gets_no_traceback(command, info):
    command = info if command == "info" else f"{TOOL} caption --help"
    done = shell(f"{command} | true")
    assert done.returncode in (0, 1)  # 0 where all was written before the reader left
    assert done.stderr == ""
