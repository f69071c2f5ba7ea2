"""Images decoded in a separate process: their pixels, and the ways in which the process may end."""

import os
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image
from visionsplit.errors import CancelledError, InternalError, InvalidImageError, OverloadedError
from visionsplit.images import ImageLimits, ProcessDecoder, decode_image, read_header

from tests.unit.images.file_matrix import saved

MILLION = 1_000_000


def run_length_bmp(pixels):
    """8-bit grey in runs of one pixel."""
    height, width = pixels.shape
    runs = b"".join(b"".join(b"\1%c" % value for value in row) + b"\0\0" for row in pixels[::-1].tolist()) + b"\0\1"
    palette = b"".join(struct.pack("<BBBB", value, value, value, 0) for value in range(256))
    size = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(runs), 0, 0, 54 + 1024) + size + palette + runs


GREY = np.arange(48 * 40, dtype=np.uint32).reshape(40, 48).astype(np.uint8)
APART = {
    "JPEG 2000": lambda: saved(Image.fromarray(GREY), "JPEG2000"),
    "plain PGM": lambda: b"P2 48 40 255\n" + " ".join(map(str, GREY.ravel().tolist())).encode(),
    "BMP": lambda: run_length_bmp(GREY),
}


SLOW = b"P2 5000 4000 255\n" + b"1 " * 20 * MILLION  # takes many seconds


@pytest.mark.parametrize("name", APART)
def test_an_image_decoded_apart_is_the_same(name):
    data = APART[name]()
    header = read_header(data, ImageLimits())
    assert header.needs_process
    image = ProcessDecoder().decode(data, ImageLimits(), header.decoding_bytes)
    assert (image.mode, image.size, image.tobytes()) == (
        "RGB",
        (48, 40),
        decode_image(data, ImageLimits()).tobytes(),
    )


def decoded_apart(data=None):
    return ProcessDecoder().decode(data or APART["plain PGM"](), ImageLimits(), MILLION)


def test_what_is_wrong_with_an_image_decoded_apart_is_said():
    with pytest.raises(InvalidImageError, match="not enough image data"):
        decoded_apart(APART["plain PGM"]()[:100])


def test_a_process_that_fails_is_not_the_fault_of_the_image(monkeypatch, caplog):
    monkeypatch.setattr("visionsplit.images.process_decoder._MODULE", "visionsplit.no_such_module")
    with pytest.raises(InternalError, match="failed"):
        decoded_apart()
    assert "No module named visionsplit.no_such_module" in caplog.text


@pytest.mark.parametrize("died", ["kill(getpid(), SIGKILL)", "kill(getpid(), SIGXCPU)", "bytes(1 << 62)"])
def test_a_process_that_takes_too_much_is_the_fault_of_the_image(monkeypatch, tmp_path, died):
    (tmp_path / "greedy.py").write_text(
        "import runpy\nfrom os import *\nfrom signal import *\nimport visionsplit.images.reading as reading\n"
        f"reading.decode_image = lambda *_: {died}\nrunpy.run_module('visionsplit.images', run_name='__main__')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr("visionsplit.images.process_decoder._MODULE", "greedy")
    with pytest.raises(InvalidImageError, match="seconds or too much memory"):
        decoded_apart()


@pytest.mark.parametrize(("limit", "most", "said"), [("AS", 2**31, ""), ("NOFILE", 3, "5.0 the encoder cannot start")])
def test_an_image_is_decoded_within_an_administrators_limits(limit, most, said):
    """In another process, since hard limits cannot be raised again."""
    script = (
        "import resource, sys\nfrom visionsplit.errors import OverloadedError\n"
        "from visionsplit.images import ProcessDecoder, ImageLimits\n"
        f"resource.setrlimit(resource.RLIMIT_{limit}, ({most}, {most}))\n"
        "try:\n    ProcessDecoder().decode(sys.stdin.buffer.read(), ImageLimits(), 10**6)\n"
        "except OverloadedError as error:\n    print(error.retry_after_seconds, error)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], input=APART["JPEG 2000"](), capture_output=True, check=True, timeout=60
    )
    assert ended.stdout.decode().startswith(said)
    assert bool(ended.stdout) == bool(said)


def test_a_process_that_gets_no_time_is_ended(monkeypatch):
    monkeypatch.setattr("visionsplit.images.process_decoder._MOST_SECONDS", 0.01)
    with pytest.raises(OverloadedError, match="machine is busy"):
        decoded_apart()


@pytest.mark.parametrize("early", [True, False])
def test_an_image_that_is_not_wanted_any_more_ends_its_process(early):
    decoder, started = ProcessDecoder(), time.monotonic()
    if early:
        decoder.stop()
    else:
        threading.Timer(0.3, decoder.stop).start()
    with pytest.raises(CancelledError):
        decoder.decode(SLOW, ImageLimits(), 2000 * MILLION)
    assert time.monotonic() - started < 2
