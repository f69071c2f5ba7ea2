"""The tool's output can always be printed, whatever names and answers contain, and sends a terminal no commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.client.fakes import WORDS

CODE = "import sys, visionsplit_cli as c; sys.exit(c.main())"
NAMES = [b"caf\xe9.png", "фото.png".encode(), b"two\nlines.png", b"\x1b[2J\x1b[31mred.png", "\x9b31m.png".encode()]
STRICT = {"PYTHONIOENCODING": "utf-8:strict"}
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(*arguments: str | bytes, environment: dict[str, str], **options) -> subprocess.CompletedProcess:
    defaults = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 60}
    command = [sys.executable, "-c", CODE, *arguments]
    return subprocess.run(command, env=os.environ | environment, check=False, **defaults | options)


@pytest.fixture
def names(image_path, tmp_path) -> list[bytes]:
    paths = [os.fsencode(tmp_path) + b"/" + name for name in NAMES]
    for path in paths:
        Path(os.fsdecode(path)).write_bytes(image_path.read_bytes())
    return paths


@pytest.mark.parametrize("environment", [STRICT, ASCII, {"PYTHONIOENCODING": "latin-1"}], ids=["utf-8", "C", "latin-1"])
def test_names_that_are_not_text(names, where, environment):
    ended = run("caption", *names, b"gone-\xff.png", *where, environment=environment)
    assert ended.returncode == 1
    assert b"Traceback" not in ended.stderr
    assert ended.stdout.count(b"\n  224 vision tokens, ") == len(names)
    out = ended.stdout.decode("ascii" if environment is ASCII else "latin-1")
    for name in ("/caf\\udce9.png", "/two\\u000alines.png", "/\\u001b[2J\\u001b[31mred.png"):
        assert name in out
    assert b"gone-\\udcff.png: No such file or directory" in ended.stderr
    assert not set(ended.stdout + ended.stderr) & {0x1B, 0x9B, 0x0D}


@pytest.mark.parametrize("environment", [STRICT, ASCII], ids=["utf-8", "C"])
def test_names_that_are_not_text_in_json(names, where, environment):
    ended = run("caption", *names, "--json", *where, environment=environment)
    assert (ended.returncode, ended.stderr) == (0, b"")
    document = json.loads(ended.stdout)
    assert [os.fsencode(image["image"]) for image in document["images"]] == names


def test_answers_are_shown_and_not_obeyed(image_path, where, services, monkeypatch, capfdbinary):
    monkeypatch.setattr("tests.unit.client.fakes.WORDS", ("“ä”\n\t", "\x1b]0;title\x07", "中\r\u202e."))
    shown = "“ä”\n\t\\u001b]0;title\\u0007中\\u000d\\u202e.\n"
    assert run("ask", image_path, "?", *where, environment=STRICT).stdout.decode() == shown
    ended = run("ask", image_path, "?", *where, environment=ASCII)
    assert ended.stdout.decode("ascii") == shown.encode("ascii", "backslashreplace").decode()
    for environment in (STRICT, ASCII):
        ended = run("ask", image_path, "?", "--json", *where, environment=environment)
        assert json.loads(ended.stdout)["text"] == "“ä”\n\t\x1b]0;title\x07中\r\u202e."


def test_wrong_usage_with_such_a_name(names):
    ended = run("ask", names[0], names[3], environment=STRICT)
    assert ended.returncode == 2
    assert b"a question is missing after" in ended.stderr
    assert b"\x1b" not in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("command", [["caption"], ["caption", "--json"], ["ask", "--prompt", "?"]])
def test_a_full_disk_is_one_line(command, image_path, where):
    with Path("/dev/full").open("w") as full:
        ended = run(*command, image_path, *where, environment={}, stdout=full)
    assert ended.returncode == 1
    assert ended.stderr.endswith(b"No space left on device\n")
    assert b"Traceback" not in ended.stderr


def test_an_image_on_standard_input(image_path, where, services):
    for arguments in (["caption", "-", *where], ["ask", "-", "?", *where]):
        with image_path.open("rb") as file:
            ended = run(*arguments, environment={}, stdin=file)
        assert ended.returncode == 0, ended.stderr
        assert "".join(WORDS).encode() in ended.stdout
    assert [request.images[0].data for request in services.encoder.script.requests] == [image_path.read_bytes()] * 2
    with Path(os.devnull).open() as nothing:
        ended = run("caption", "-", *where, environment={}, stdin=nothing)
    assert ended.returncode == 1
    assert b"standard input: the open file has no bytes" in ended.stderr
