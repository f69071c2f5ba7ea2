"""Decodes an image in a separate process, started for that image.

Some decoders hold the interpreter lock for seconds: Pillow's for JPEG 2000, and those that Pillow implements in Python.
In a separate process they block no other request. The process returns all of its memory when it ends, and the operating
system ends it if it exceeds its time or memory.
"""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict

import numpy as np
from PIL import Image

from visionsplit.errors import CancelledError, InternalError, InvalidImageError, OverloadedError
from visionsplit.images.size_limits import ImageLimits

MOST_CPU_SECONDS = 20  # twice the time for a JPEG 2000 image of 50 million pixels
OUT_OF_MEMORY = 3  # exit status of the process
_MOST_SECONDS = 60.0  # real time; enough where the process gets only a third of a core
_MODULE = "visionsplit.images"
_TOO_MUCH = {-signal.SIGKILL, -signal.SIGXCPU, OUT_OF_MEMORY}  # exit statuses; SIGKILL also for too much memory
_EXHAUSTED = {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # no processes, files or memory at the moment
_RETRY_SECONDS = 5.0
_LOGGED_CHARACTERS = 2000

_log = logging.getLogger(__name__)


class ProcessDecoder:
    """Decodes one image in a separate process. One thread waits for the result, and any thread may stop it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def stop(self) -> None:
        """End the process, now or as soon as it starts. `decode` then raises CancelledError."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def decode(self, data: bytes, limits: ImageLimits, decoding_bytes: int) -> Image.Image:
        """Call `decode_image` in a separate process, releasing the interpreter lock while waiting for it.

        Args:
            data: the file.
            limits: limits on the image's size.
            decoding_bytes: the memory that `read_header` estimated.

        Raises:
            InvalidImageError: raised by `decode_image`, or decoding takes too much time or memory.
            OverloadedError: the system cannot start the process, or gives it too little processor time.
            CancelledError: `stop` was called.
            InternalError: the process failed; the log has the details.
        """
        with _start(json.dumps({"limits": asdict(limits), "bytes": decoding_bytes})) as process:
            try:
                with self._lock:
                    self._process = process
                    stopped = self._stopped
                if not stopped:
                    answer, complaints = process.communicate(data, _MOST_SECONDS)
            except subprocess.TimeoutExpired:
                raise OverloadedError(
                    f"decoding the image takes more than {_MOST_SECONDS:.0f} seconds; the encoder's machine is busy",
                    _RETRY_SECONDS,
                ) from None
            finally:
                process.kill()
        if self._stopped:
            raise CancelledError("the image is not needed any more")
        _check_end(process.returncode, complaints)
        return _image(answer)


def _start(asked: str) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            [sys.executable, "-m", _MODULE, asked],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # With more threads, OpenBLAS would reserve address space for one thread per core.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
    except OSError as error:
        if error.errno not in _EXHAUSTED:
            raise
        raise OverloadedError(
            f"the encoder cannot start a process to decode the image ({error.strerror})", _RETRY_SECONDS
        ) from error


def _check_end(status: int, complaints: bytes) -> None:
    if status in _TOO_MUCH:
        raise InvalidImageError(f"decoding the image takes more than {MOST_CPU_SECONDS} seconds or too much memory")
    if status:
        said = complaints.decode(errors="replace")[-_LOGGED_CHARACTERS:]
        _log.error("the process that decodes an image ended with status %d: %s", status, said)
        raise InternalError("the process that decodes the image failed")


def _image(answer: bytes) -> Image.Image:
    """Read the image from a line of JSON and the pixels after it, copying the pixels only once."""
    begin = answer.index(b"\n") + 1
    said = json.loads(answer[:begin])
    if "error" in said:
        raise InvalidImageError(said["error"])
    width, height = said["size"]
    return Image.fromarray(np.frombuffer(answer, np.uint8, offset=begin).reshape(height, width, 3))
